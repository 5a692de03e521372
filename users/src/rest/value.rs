//! Values of JSON as they came, so that every field of the wrong type can be named, and not only the
//! first one.

use std::fmt;

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::refusal::{Violation, Violations};
use crate::rest::problem::Problem;
use crate::user::Draft;

/// Wrong items of a list that are named.
const NAMED: usize = 16;

/// A value. Of those that nobody asks for, only the kind is kept.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) enum Value {
    /// Was not there.
    #[default]
    Absent,
    /// Was there more than once.
    Twice,
    Null,
    Flag,
    /// A number that is not a whole one, or too large.
    Number,
    Integer(i64),
    Text(String),
    List(Vec<Value>),
    Object,
}

impl Value {
    fn kind(&self) -> &'static str {
        match self {
            Self::Absent => "missing",
            Self::Twice => "there twice",
            Self::Null => "null",
            Self::Flag => "true or false",
            Self::Number | Self::Integer(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "an array",
            Self::Object => "an object",
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Value, E> {
        Ok(Value::Flag)
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Integer(number))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(i64::try_from(number).map_or(Value::Number, Value::Integer))
    }

    /// What is written 28.0 is a whole number too (JSON Schema, section 6.1.1 of its validation).
    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        // Up to here, all whole numbers are exact.
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[allow(
            clippy::cast_possible_truncation,
            reason = "it has no fraction and fits"
        )]
        if number.fract() == 0.0 && number.abs() <= EXACT {
            return Ok(Value::Integer(number as i64));
        }
        Ok(Value::Number)
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Value, E> {
        Ok(Value::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        while members.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Object)
    }
}

/// Reads an object: its members with these names; others are ignored.
#[derive(Debug, Clone, Copy)]
pub(super) struct Members<const N: usize>(pub(super) [&'static str; N]);

impl<'de, const N: usize> DeserializeSeed<'de> for Members<N> {
    type Value = [Value; N];

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<[Value; N], D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize> Visitor<'de> for Members<N> {
    type Value = [Value; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<[Value; N], A::Error> {
        let mut found = [const { Value::Absent }; N];
        while let Some(Value::Text(name)) = members.next_key()? {
            let place = self.0.iter().position(|known| *known == name);
            match place.map(|place| &mut found[place]) {
                None => drop(members.next_value::<IgnoredAny>()?),
                Some(value @ Value::Absent) => *value = members.next_value()?,
                Some(value) => {
                    members.next_value::<IgnoredAny>()?;
                    *value = Value::Twice;
                }
            }
        }
        Ok(found)
    }
}

/// The members of the object that `text` is.
///
/// # Errors
/// When it is not JSON, or not an object.
pub(super) fn object<const N: usize>(
    text: &[u8],
    names: [&'static str; N],
) -> Result<[Value; N], Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Members(names)
        .deserialize(&mut json)
        .and_then(|values| json.end().map(|()| values))
        .map_err(|error| not_read(&error))
}

/// Why a body was not read.
pub(super) fn not_read(error: &serde_json::Error) -> Problem {
    if error.is_data() {
        // The types of members are looked at later, so it is the body itself.
        return Violations::one("body", format!("the body is wrong: {error}")).into();
    }
    Problem::malformed(format!("the body is not JSON: {error}"))
}

/// Reads an array of objects one by one, so that they are never all in memory.
pub(super) struct Each<F, const N: usize>(pub(super) [&'static str; N], pub(super) F);

impl<'de, const N: usize, F: FnMut([Value; N]) -> Result<(), Problem>> DeserializeSeed<'de>
    for Each<F, N>
{
    type Value = Result<(), Problem>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, const N: usize, F: FnMut([Value; N]) -> Result<(), Problem>> Visitor<'de> for Each<F, N> {
    type Value = Result<(), Problem>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of objects")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<Self::Value, A::Error> {
        let mut answer = Ok(());
        while answer.is_ok()
            && let Some(members) = items.next_element_seed(Members(self.0))?
        {
            answer = (self.1)(members);
        }
        // Has to be read to its end.
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(answer)
    }
}

/// Hands the objects of the array that `text` is to `take`, until it refuses one.
///
/// # Errors
/// When it is not JSON, or not an array of objects; what `take` refused.
pub(super) fn each<const N: usize>(
    text: &[u8],
    names: [&'static str; N],
    take: impl FnMut([Value; N]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut json = serde_json::Deserializer::from_slice(text);
    Each(names, take)
        .deserialize(&mut json)
        .and_then(|answer| json.end().map(|()| answer))
        .map_err(|error| not_read(&error))?
}

/// Members of an object whose types are looked at; remembers what is wrong.
#[derive(Debug, Default)]
pub(super) struct Types {
    found: Vec<Violation>,
}

impl Types {
    fn wrong(&mut self, field: &str, should: &str, value: &Value) {
        self.found.push(Violation {
            field: field.to_owned(),
            description: match value {
                Value::Absent | Value::Twice => format!("{field} is {}", value.kind()),
                _ => format!("{field} must be {should}, not {}", value.kind()),
            },
        });
    }

    /// Text, or an empty one if it is not.
    pub(super) fn text(&mut self, field: &str, value: Value) -> String {
        match value {
            Value::Text(text) => text,
            value => {
                self.wrong(field, "text", &value);
                String::new()
            }
        }
    }

    /// A whole number, 0 if it is not.
    pub(super) fn integer(&mut self, field: &str, value: &Value) -> i64 {
        match value {
            Value::Integer(number) => *number,
            Value::Number => {
                self.found.push(Violation {
                    field: field.to_owned(),
                    description: format!("{field} must be a whole number"),
                });
                0
            }
            value => {
                self.wrong(field, "a whole number", value);
                0
            }
        }
    }

    /// A list of texts; those that are not are empty.
    pub(super) fn texts(&mut self, field: &str, value: Value) -> Vec<String> {
        let Value::List(items) = value else {
            self.wrong(field, "an array", &value);
            return Vec::new();
        };
        let text = |(i, item)| match item {
            Value::Text(text) => text,
            item => {
                if self.found.len() < NAMED {
                    self.wrong(&format!("{field}[{i}]"), "text", &item);
                }
                String::new()
            }
        };
        items.into_iter().enumerate().map(text).collect()
    }

    /// Adds what is wrong with the values; not for fields whose type is wrong, as they have none. In
    /// the order of `names`.
    pub(super) fn and(
        mut self,
        values: Result<(), Violations>,
        names: &[&str],
    ) -> Result<(), Violations> {
        if let Err(more) = values {
            let types = self.found.len();
            for violation in more.all() {
                let known = &self.found[..types];
                if known.iter().all(|type_| type_.field != violation.field) {
                    self.found.push(violation.clone());
                }
            }
        }
        let place = |violation: &Violation| {
            let name = violation.field.split('[').next();
            names.iter().position(|known| Some(*known) == name)
        };
        self.found.sort_by_key(place);
        Violations::check(self.found)
    }
}

/// Members of a user to be created.
pub(super) const DRAFT: [&str; 4] = ["name", "email", "age", "roles"];

/// A user to be created.
///
/// # Errors
/// Every field that is missing or of the wrong type, and then also those whose values are wrong.
pub(super) fn draft([name, email, age, roles]: [Value; 4]) -> Result<Draft, Violations> {
    let mut types = Types::default();
    let name = types.text("name", name);
    let email = types.text("email", email);
    let age = types.integer("age", &age);
    let roles = match roles {
        Value::Absent => Vec::new(),
        roles => types.texts("roles", roles),
    };
    // What does not fit is as wrong as the highest number.
    let age = i32::try_from(age).unwrap_or(i32::MAX);
    let draft = Draft {
        name,
        email,
        age,
        roles,
    };
    if types.found.is_empty() {
        return Ok(draft);
    }
    types.and(draft.clone().check().map(drop), &DRAFT)?;
    Ok(draft)
}
