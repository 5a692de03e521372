use std::collections::BTreeSet;

use super::*;
use crate::refusal::Code;
use crate::user::Draft;

const MANY: usize = 1_000_000;

fn user(name: &str) -> NewUser {
    let draft = Draft {
        name: name.to_owned(),
        email: "someone@example.com".to_owned(),
        age: 30,
        roles: vec!["user".to_owned()],
    };
    draft.check().unwrap()
}

fn code<T: std::fmt::Debug>(result: Result<T, Refusal>) -> Code {
    result.unwrap_err().code()
}

#[tokio::test]
async fn users_are_found_by_their_ids() {
    let directory = Directory::in_memory(MANY);
    let created = directory.create(user("Ada")).await.unwrap();
    assert_eq!(created.id, 6);
    assert_eq!(directory.user(6).unwrap(), created);
    assert_eq!(directory.user(1).unwrap().fields.name(), "Alice Johnson");
    assert_eq!(
        directory.user(0).unwrap_err().to_string(),
        "ID must be positive"
    );
    assert_eq!(
        directory.user(7).unwrap_err().to_string(),
        "User 7 not found"
    );
    assert_eq!(code(directory.user(i32::MIN)), Code::InvalidArgument);
    assert_eq!((directory.len(), directory.newest()), (6, 6));
}

#[tokio::test]
async fn a_batch_that_does_not_fit_creates_nobody() {
    let directory = Directory::in_memory(7);
    let batch = |count| (0..count).map(|_| user("Ada")).collect::<Vec<_>>();
    let refusal = directory.create_all(batch(3)).await.unwrap_err();
    assert_eq!(refusal.code(), Code::ResourceExhausted);
    assert!(refusal.to_string().contains("--max-users"), "{refusal}");
    assert_eq!(directory.len(), 5);
    assert_eq!(directory.create_all(batch(2)).await.unwrap().len(), 2);
    assert_eq!(
        code(directory.create(user("Ada")).await),
        Code::ResourceExhausted
    );
    assert!(directory.create_all(Vec::new()).await.unwrap().is_empty());
}

#[tokio::test]
async fn pages_begin_after_an_id_and_end_with_the_last() {
    let directory = Directory::in_memory(MANY);
    let ids = |after, limit| -> Vec<i32> {
        directory
            .page(after, limit)
            .iter()
            .map(|user| user.id)
            .collect()
    };
    assert_eq!(ids(0, 2), [1, 2]);
    assert_eq!(ids(2, 9), [3, 4, 5]);
    assert!(ids(5, 9).is_empty());
    assert_eq!(ids(-3, 1), [1]);
    assert!(ids(i32::MAX, 1).is_empty());
}

#[tokio::test]
async fn a_list_without_following_ends() {
    let directory = Arc::new(Directory::in_memory(MANY));
    directory
        .create_all((0..600).map(|_| user("Ada")).collect())
        .await
        .unwrap();
    let mut listing = directory.list(0, None, false);
    let mut ids = Vec::new();
    while let Some(page) = listing.next().await {
        assert!(page.len() <= PAGE);
        ids.extend(page.iter().map(|user| user.id));
    }
    assert!(ids.iter().copied().eq(1..=605));
    let mut some = directory.list(3, Some(4), false);
    assert_eq!(some.next().await.unwrap().len(), 4);
    assert!(some.next().await.is_none());
}

/// Creates in many tasks while others follow: each follower sees each user once, in order.
async fn follow_while_many_create(directory: Directory) {
    const TASKS: usize = 8;
    const EACH: usize = 50;
    let directory = Arc::new(directory);
    let total = TASKS * EACH;
    let followers: Vec<_> = (0..4)
        .map(|_| {
            let mut listing = directory.list(5, Some(total), true);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                while let Some(page) = listing.next().await {
                    ids.extend(page.iter().map(|user| user.id));
                }
                ids
            })
        })
        .collect();
    let creators: Vec<_> = (0..TASKS)
        .map(|_| {
            let directory = Arc::clone(&directory);
            tokio::spawn(async move {
                let mut ids = Vec::new();
                for _ in 0..EACH {
                    ids.push(directory.create(user("Ada")).await.unwrap().id);
                }
                ids
            })
        })
        .collect();
    let mut given = BTreeSet::new();
    for creator in creators {
        given.extend(creator.await.unwrap());
    }
    assert_eq!(given.len(), total);
    for follower in followers {
        assert!(follower.await.unwrap().iter().eq(&given));
    }
    directory.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_see_each_user_once_in_order() {
    follow_while_many_create(Directory::in_memory(MANY)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_of_a_file_see_each_user_once_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let directory = Directory::open(&folder.path().join("users.sqlite"), MANY).unwrap();
    assert_eq!(directory.writes(), Some((0, 1_024)));
    follow_while_many_create(directory).await;
}

#[tokio::test]
async fn a_follower_waits_for_what_is_not_there_yet() {
    let directory = Arc::new(Directory::in_memory(MANY));
    let mut listing = directory.list(5, None, true);
    let (next, created) = tokio::join!(listing.next(), directory.create(user("Ada")));
    assert_eq!(next.unwrap(), [created.unwrap()]);
}

#[tokio::test]
async fn users_of_a_file_are_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.sqlite");
    let first = Directory::open(&path, MANY).unwrap();
    let ada = first.create(user("Ada")).await.unwrap();
    // It is in the file before the answer: nothing is written at the end.
    drop(first);
    let second = loop {
        // The file is let go of when its thread has ended.
        match Directory::open(&path, MANY) {
            Ok(directory) => break directory,
            Err(JournalError::Database { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(second.user(ada.id).unwrap(), ada);
    assert_eq!(second.len(), 6);
    assert_eq!(second.create(user("Blaise")).await.unwrap().id, 7);
    second.close().await;
    assert_eq!(code(second.create(user("Claude")).await), Code::Unavailable);
}

#[tokio::test]
async fn a_file_has_one_server_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.sqlite");
    let first = Directory::open(&path, MANY).unwrap();
    let error = Directory::open(&path, MANY).unwrap_err().to_string();
    assert!(error.contains("another server"), "{error}");
    first.close().await;
    Directory::open(&path, MANY).unwrap().close().await;
}

#[test]
fn files_of_others_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.sqlite");
    let notes = rusqlite::Connection::open(&path).unwrap();
    notes
        .execute_batch("CREATE TABLE notes (text TEXT)")
        .unwrap();
    drop(notes);
    let before = std::fs::read(&path).unwrap();
    let error = Directory::open(&path, MANY).unwrap_err().to_string();
    assert!(error.contains("another program"), "{error}");
    assert!(error.contains("--data"), "{error}");
    let text = folder.path().join("text");
    std::fs::write(
        &text,
        "no database at all, but longer than the head of one would be: 100 bytes",
    )
    .unwrap();
    assert!(Directory::open(&text, MANY).is_err());
    assert!(Directory::open(&folder.path().join("no/such/folder"), MANY).is_err());
    // Only its journal's mode may have been looked at, nothing else touched.
    assert_eq!(std::fs::read(&path).unwrap().len(), before.len());
}

#[tokio::test]
async fn what_cannot_be_written_is_internal_and_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.sqlite");
    Directory::open(&path, MANY).unwrap().close().await;
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON users WHEN NEW.name = 'Broken'
             BEGIN SELECT RAISE(ABORT, 'disk full'); END",
        )
        .unwrap();
    drop(database);
    let directory = Directory::open(&path, MANY).unwrap();
    let refusal = directory.create(user("Broken")).await.unwrap_err();
    assert_eq!(refusal.code(), Code::Internal);
    assert!(
        !refusal.to_string().contains("disk full"),
        "for the log only"
    );
    assert_eq!(directory.create(user("Ada")).await.unwrap().id, 6);
    assert_eq!(directory.len(), 6);
    directory.close().await;
}

#[tokio::test]
async fn a_damaged_user_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users.sqlite");
    Directory::open(&path, MANY).unwrap().close().await;
    let database = rusqlite::Connection::open(&path).unwrap();
    database
        .execute("UPDATE users SET age = 999 WHERE user_id = 3", [])
        .unwrap();
    drop(database);
    let error = Directory::open(&path, MANY).unwrap_err().to_string();
    assert!(
        error.contains("user 3: age must be 0 to 150, not 999"),
        "{error}"
    );
    let error = Directory::open(&path, 2).unwrap_err().to_string();
    assert!(error.contains("user 3"), "{error}");
}

#[test]
fn what_is_no_file_is_refused() {
    for path in [":memory:", ""] {
        assert!(Directory::open(Path::new(path), MANY).is_err(), "{path:?}");
    }
    let folder = tempfile::tempdir().unwrap();
    let odd = folder.path().join("file:x?mode=memory");
    Directory::open(&odd, MANY).unwrap();
    assert!(odd.is_file(), "a path is a path");
}
