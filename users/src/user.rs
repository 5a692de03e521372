//! Users, and what their fields may be.

use std::sync::Arc;

use jiff::Timestamp;

use crate::refusal::{Violation, Violations};

/// Most characters of a name.
pub const MAX_NAME: usize = 100;
/// Most bytes of an address (RFC 5321, section 4.5.3.1.3, less the angle brackets).
pub const MAX_EMAIL: usize = 254;
/// Highest age, years.
pub const MAX_AGE: i32 = 150;
/// Most roles of one user.
pub const MAX_ROLES: usize = 16;
/// Most characters of a role.
pub const MAX_ROLE: usize = 32;
/// The role that is given only by callers who may.
pub const ADMIN: &str = "admin";

/// A user as the service knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Counted from 1.
    pub id: i32,
    /// What was given.
    pub fields: NewUser,
    /// In whole milliseconds.
    pub created_at: Timestamp,
}

/// Fields of a user that are as they should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    name: Box<str>,
    email: Box<str>,
    age: u8,
    roles: Box<[Box<str>]>,
}

/// Fields of a user as they came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// 1 to [`MAX_NAME`] characters, not only spaces.
    pub name: String,
    /// An address of at most [`MAX_EMAIL`] bytes.
    pub email: String,
    /// 0 to [`MAX_AGE`].
    pub age: i32,
    /// At most [`MAX_ROLES`].
    pub roles: Vec<String>,
}

impl Draft {
    /// The fields, if all of them are as they should be.
    ///
    /// # Errors
    /// Every field that is not.
    pub fn check(self) -> Result<NewUser, Violations> {
        let mut found = Vec::new();
        let mut wrong = |field: &str, description: Option<String>| {
            found.extend(description.map(|description| Violation {
                field: field.to_owned(),
                description,
            }));
        };
        wrong("name", check_name("name", &self.name));
        wrong("email", check_email(&self.email));
        let age = u8::try_from(self.age)
            .ok()
            .filter(|age| i32::from(*age) <= MAX_AGE);
        if age.is_none() {
            wrong(
                "age",
                Some(format!("age must be 0 to {MAX_AGE}, not {}", self.age)),
            );
        }
        if self.roles.len() > MAX_ROLES {
            let count = self.roles.len();
            wrong(
                "roles",
                Some(format!("roles must be at most {MAX_ROLES}, not {count}")),
            );
        }
        for (i, role) in self.roles.iter().take(MAX_ROLES).enumerate() {
            let field = format!("roles[{i}]");
            let twice = self.roles[..i].contains(role);
            wrong(&field, check_role(&field, role, twice));
        }
        Violations::check(found)?;
        Ok(NewUser {
            name: self.name.into(),
            email: self.email.into(),
            age: age.unwrap_or_default(),
            roles: self.roles.into_iter().map(Into::into).collect(),
        })
    }
}

impl NewUser {
    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The address.
    pub fn email(&self) -> &str {
        &self.email
    }

    /// Years.
    pub fn age(&self) -> u8 {
        self.age
    }

    /// The roles, each once.
    pub fn roles(&self) -> &[Box<str>] {
        &self.roles
    }

    /// Whether a caller needs to be allowed to give these roles.
    pub fn is_privileged(&self) -> bool {
        self.roles.iter().any(|role| &**role == ADMIN)
    }
}

/// Checks an id.
///
/// # Errors
/// When it is below 1.
pub fn check_id(id: i32) -> Result<i32, Violations> {
    if id > 0 {
        return Ok(id);
    }
    Err(Violations::one("user_id", "ID must be positive"))
}

/// What is wrong with a name, if anything is.
pub(crate) fn check_name(field: &str, name: &str) -> Option<String> {
    let length = name.chars().count();
    if !(1..=MAX_NAME).contains(&length) {
        return Some(format!(
            "{field} must have 1 to {MAX_NAME} characters, not {length}"
        ));
    }
    if name.trim().is_empty() {
        return Some(format!("{field} must not consist of spaces"));
    }
    name.contains(char::is_control)
        .then(|| format!("{field} must not contain control characters"))
}

/// What is wrong with an address, if anything is.
fn check_email(email: &str) -> Option<String> {
    if email.len() > MAX_EMAIL {
        return Some(format!(
            "email must have at most {MAX_EMAIL} bytes, not {}",
            email.len()
        ));
    }
    (!is_address(email)).then(|| "email must be an address such as alice@example.com".to_owned())
}

/// As browsers check `<input type=email>`: WHATWG HTML, section 4.10.5.1.5, "valid e-mail address".
fn is_address(text: &str) -> bool {
    let Some((local, domain)) = text.split_once('@') else {
        return false;
    };
    let is_local =
        |byte: u8| byte.is_ascii_alphanumeric() || b".!#$%&'*+/=?^_`{|}~-".contains(&byte);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    !local.is_empty() && local.bytes().all(is_local) && domain.split('.').all(is_label)
}

fn check_role(field: &str, role: &str, twice: bool) -> Option<String> {
    let is_word = (1..=MAX_ROLE).contains(&role.len())
        && role
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
    if !is_word {
        return Some(format!(
            "{field} must have 1 to {MAX_ROLE} small letters, digits and hyphens"
        ));
    }
    twice.then(|| format!("{field} is there twice"))
}

/// The users of a new directory, the same in every one, so that several servers agree.
pub(crate) fn first_users() -> Vec<Arc<User>> {
    const FIRST: [(&str, &str, u8, &[&str]); 5] = [
        ("Alice Johnson", "alice@example.com", 28, &["admin", "user"]),
        ("Bob Smith", "bob@example.com", 35, &["user"]),
        (
            "Carol Williams",
            "carol@example.com",
            42,
            &["editor", "user"],
        ),
        ("David Brown", "david@example.com", 31, &["user"]),
        ("Eve Davis", "eve@example.com", 26, &["user"]),
    ];
    // 2026-01-01T09:00:00Z, and a day later each.
    const BEGIN: i64 = 1_767_258_000;
    const DAY: i64 = 86_400;
    (1..)
        .zip(FIRST)
        .map(|(id, (name, email, age, roles))| {
            let second = BEGIN + DAY * (i64::from(id) - 1);
            Arc::new(User {
                id,
                fields: NewUser {
                    name: name.into(),
                    email: email.into(),
                    age,
                    roles: roles.iter().map(|role| (*role).into()).collect(),
                },
                created_at: Timestamp::from_second(second).expect("it is in this century"),
            })
        })
        .collect()
}

/// Now, in whole milliseconds.
pub(crate) fn now() -> Timestamp {
    let milliseconds = Timestamp::now().as_millisecond();
    Timestamp::from_millisecond(milliseconds).expect("it was a time before")
}

/// A time as the JSON form of `google.protobuf.Timestamp` has it: with three digits or none after
/// the point.
pub fn format_time(time: Timestamp) -> String {
    if time.subsec_millisecond() == 0 {
        return format!("{time:.0}");
    }
    format!("{time:.3}")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests may panic")]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            name: "Ada".to_owned(),
            email: "ada@example.com".to_owned(),
            age: 36,
            roles: vec!["user".to_owned()],
        }
    }

    fn fields(draft: Draft) -> Vec<String> {
        let violations = draft.check().unwrap_err();
        violations.all().iter().map(|v| v.field.clone()).collect()
    }

    #[test]
    fn all_wrong_fields_are_named_at_once() {
        let wrong = Draft {
            name: " ".to_owned(),
            email: "nobody".to_owned(),
            age: -1,
            roles: vec!["ok".to_owned(), "No".to_owned(), "ok".to_owned()],
        };
        assert_eq!(
            fields(wrong),
            ["name", "email", "age", "roles[1]", "roles[2]"]
        );
        assert!(draft().check().is_ok());
    }

    #[test]
    fn bounds_are_where_they_are_said_to_be() {
        let name = |name: &str| {
            Draft {
                name: name.to_owned(),
                ..draft()
            }
            .check()
            .is_ok()
        };
        assert!(name(&"ä".repeat(MAX_NAME)) && !name(&"ä".repeat(MAX_NAME + 1)) && !name(""));
        assert!(!name("a\u{7}b"));
        let age = |age| Draft { age, ..draft() }.check().is_ok();
        assert!(age(0) && age(MAX_AGE) && !age(MAX_AGE + 1) && !age(i32::MIN) && !age(256));
        let roles = |count: usize| {
            let roles = (0..count).map(|i| format!("r{i}")).collect();
            Draft { roles, ..draft() }.check().is_ok()
        };
        assert!(roles(0) && roles(MAX_ROLES) && !roles(MAX_ROLES + 1));
    }

    #[test]
    fn addresses_are_those_of_html() {
        for good in ["a@b", "a.b+c@example.com", "o'neil@x-y.example", "1@2.3"] {
            assert!(is_address(good), "{good}");
        }
        for bad in [
            "", "@b", "a@", "a@b@c", "a@-b", "a@b-", "a@b..c", "a b@c", "ä@b", "a@b.", "a@b_c",
        ] {
            assert!(!is_address(bad), "{bad}");
        }
    }

    #[test]
    fn times_are_written_as_protobuf_writes_them() {
        let time = |milliseconds| format_time(Timestamp::from_millisecond(milliseconds).unwrap());
        assert_eq!(time(1_767_258_000_000), "2026-01-01T09:00:00Z");
        assert_eq!(time(1_767_258_000_100), "2026-01-01T09:00:00.100Z");
    }

    #[test]
    fn the_first_user_is_alice() {
        let users = first_users();
        assert_eq!(users.len(), 5);
        let alice = &users[0];
        assert_eq!(
            (alice.id, alice.fields.name(), alice.fields.age()),
            (1, "Alice Johnson", 28)
        );
        assert_eq!(alice.fields.email(), "alice@example.com");
        assert_eq!(format_time(alice.created_at), "2026-01-01T09:00:00Z");
    }
}
