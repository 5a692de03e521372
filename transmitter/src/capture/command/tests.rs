use futures_util::FutureExt;
use image::{ExtendedColorType, ImageEncoder};
use tempfile::TempDir;

use super::*;
use crate::payload::Payload;

fn jpeg(side: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..side * side * 3).map(|n| (n * 7 % 251) as u8).collect();
    let mut out = Vec::new();
    image::codecs::jpeg::JpegEncoder::new(&mut out)
        .write_image(&pixels, side, side, ExtendedColorType::Rgb8)
        .unwrap();
    out
}

fn png(side: u32) -> Vec<u8> {
    let pixels: Vec<u8> = (0..side * side * 3).map(|n| (n * 13 % 241) as u8).collect();
    let mut out = Vec::new();
    image::codecs::png::PngEncoder::new(&mut out)
        .write_image(&pixels, side, side, ExtendedColorType::Rgb8)
        .unwrap();
    out
}

/// A folder with `a b.jpg` and `c.png`, and their bytes.
fn folder() -> (TempDir, Vec<u8>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (jpeg(200), png(60));
    std::fs::write(dir.path().join("a b.jpg"), &one).unwrap();
    std::fs::write(dir.path().join("c.png"), &two).unwrap();
    (dir, one, two)
}

fn open(command: &str, dir: &TempDir) -> CommandSource {
    let dir = dir.path().to_str().unwrap();
    CommandSource::open(&command.replace("DIR", dir)).unwrap()
}

fn bytes(image: &Captured) -> &[u8] {
    match &image.payload {
        Payload::Memory(bytes) => bytes,
        Payload::File { .. } => panic!("a command's images are in memory"),
    }
}

#[tokio::test]
async fn every_image_of_a_command_that_ends_is_given() {
    let (dir, one, two) = folder();
    let mut source = open("cat 'DIR/a b.jpg' DIR/c.png 'DIR/a b.jpg'", &dir);
    let mut images = Vec::new();
    while let Some(image) = source.next().await.unwrap() {
        images.push(image);
    }
    let expected: [&[u8]; 3] = [&one, &two, &one];
    assert_eq!(images.iter().map(bytes).collect::<Vec<_>>(), expected);
    assert_eq!(images[1].name.as_deref(), Some("cat-000002.png"));
    assert_eq!(images[2].content_type.as_deref(), Some("image/jpeg"));
    assert!(
        source.next().await.unwrap().is_none(),
        "the end stays the end"
    );
}

#[tokio::test]
async fn a_failure_names_the_code_and_the_last_message() {
    let (dir, ..) = folder();
    let mut source = open(
        "sh -c 'cat DIR/c.png; echo one >&2; echo no camera >&2; exit 3'",
        &dir,
    );
    assert!(
        source.next().await.unwrap().is_some(),
        "what came before is given"
    );
    let error = source.next().await.unwrap_err().to_string();
    assert!(
        error.contains("exited with code 3 after 1 images"),
        "{error}"
    );
    assert!(error.contains("its last message: no camera"), "{error}");
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_signal_is_a_failure_too() {
    let mut source = CommandSource::open("sh -c 'kill -9 $$'").unwrap();
    let error = source.next().await.unwrap_err().to_string();
    assert!(
        error.contains("signal 9 after 0 images and said nothing"),
        "{error}"
    );
}

#[tokio::test]
async fn a_rest_of_an_image_is_left_out_and_the_rest_given() {
    let (dir, one, _) = folder();
    let mut source = open("sh -c 'cat \"DIR/a b.jpg\"; head -c 50 DIR/c.png'", &dir);
    assert_eq!(bytes(&source.next().await.unwrap().unwrap()), one);
    assert!(source.next().await.unwrap().is_none());
}

#[tokio::test]
async fn output_that_is_no_image_is_an_error_and_does_not_fill_the_memory() {
    let mut source = CommandSource::open("cat /dev/zero").unwrap();
    let error = source.next().await.unwrap_err().to_string();
    assert!(error.contains("no image in"), "{error}");
}

#[tokio::test]
async fn giving_up_waiting_loses_no_image() {
    let (dir, one, two) = folder();
    let mut source = open("cat 'DIR/a b.jpg' DIR/c.png", &dir);
    let mut images = Vec::new();
    loop {
        // Polled once and dropped, as in a select that something else wins.
        match source.next().now_or_never() {
            Some(image) => match image.unwrap() {
                Some(image) => images.push(bytes(&image).to_vec()),
                None => break,
            },
            None => tokio::task::yield_now().await,
        }
    }
    assert_eq!(images, [one, two]);
}

#[tokio::test]
async fn the_program_waits_while_nobody_takes_images() {
    let (dir, ..) = folder();
    let count = dir.path().join("count");
    // Each turn writes an image of over 20 KB, then a byte to the count.
    let mut source = open(
        "sh -c 'n=0; while [ $n -lt 200 ]; do cat \"DIR/a b.jpg\"; printf x >>DIR/count; n=$((n+1)); done'",
        &dir,
    );
    let image = source.next().await.unwrap().unwrap();
    let size = bytes(&image).len();
    let written = std::fs::read(&count).unwrap_or_default().len();
    // A pipe holds 64 KiB, one read another 64 KiB; the counter is one behind.
    assert!(
        written <= (128 << 10) / size + 2,
        "{written} images of {size} bytes were written"
    );
}

#[tokio::test]
async fn the_program_is_killed_when_the_source_is_dropped() {
    let source = CommandSource::open("sleep 1000").unwrap();
    let process = format!("/proc/{}", source.child.id().unwrap());
    assert!(std::path::Path::new(&process).exists());
    drop(source);
    // The runtime collects it in the background.
    let gone = async {
        while std::fs::read_to_string(format!("{process}/stat")).is_ok_and(|s| !s.contains(") Z")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .unwrap();
}

#[test]
fn commands_that_cannot_run_are_refused_at_once() {
    let refused = |command: &str| CommandSource::open(command).unwrap_err().to_string();
    assert!(refused("cat 'a").contains("quotation mark"));
    assert!(refused("  ").contains("is empty"));
    assert!(refused("/no/such/program -x").contains("there is no program"));
}

#[tokio::test]
async fn messages_are_cut_to_a_bounded_line() {
    let last = Arc::default();
    let text = [&b"progress\r"[..], &[b'x'; 5000], b"\x1b[31m\n\r\n"].concat();
    log_messages(&text[..], "p".into(), Arc::clone(&last)).await;
    assert_eq!(last.lock().unwrap().len(), MAX_LINE);
}
