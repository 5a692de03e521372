//! Looks at a document before anything costly is done with it.
//!
//! The library's parser and its rules recurse, and follow each spread of a fragment as often as it
//! is there. So a document is bounded in three steps, none of which costs more than reading it: its
//! length, its brackets and words as text, and what it grows to when its fragments are put in.

use std::collections::HashMap;

use async_graphql::ServerError;
use async_graphql::parser::parse_query;
use async_graphql::parser::types::{
    ExecutableDocument, FragmentDefinition, OperationType, Selection, SelectionSet,
};
use async_graphql::{Name, Positioned};

use crate::refusal::Code;

use super::error::refused;

/// Most bytes of a document. What is long belongs into variables.
pub(super) const MAX_BYTES: usize = 64 << 10;
/// Most words, numbers, strings and signs.
pub(super) const MAX_TOKENS: usize = 10_000;
/// Deepest nesting of brackets of all kinds.
pub(super) const MAX_BRACKETS: usize = 64;
/// Most directives.
pub(super) const MAX_DIRECTIVES: usize = 50;
/// Deepest nesting of selections, fragments included. The introspection that tools send has 18.
pub(super) const MAX_DEPTH: usize = 24;
/// Most fields once fragments are put in. The introspection that tools send has about 250.
pub(super) const MAX_FIELDS: usize = 500;
/// Most fields of an operation itself.
pub(super) const MAX_ROOT_FIELDS: usize = 50;
/// Most aliases once fragments are put in.
pub(super) const MAX_ALIASES: usize = 100;
/// Deepest nesting of lists in introspection: types, their fields, and their arguments. More would
/// multiply (as `MaxIntrospectionDepthRule` of graphql-js has it).
pub(super) const MAX_INTROSPECTION_LISTS: usize = 3;
/// Most introspections of one request.
pub(super) const MAX_INTROSPECTIONS: usize = 2;

/// Fields of introspection that are lists.
const INTROSPECTION_LISTS: [&str; 8] = [
    "types",
    "directives",
    "fields",
    "args",
    "inputFields",
    "enumValues",
    "interfaces",
    "possibleTypes",
];

/// Parses a document that is within bounds.
///
/// # Errors
/// When it is not, or cannot be parsed.
pub(super) fn read(query: &str) -> Result<ExecutableDocument, ServerError> {
    check_text(query)?;
    let document = parse_query(query)?;
    check_growth(&document)?;
    Ok(document)
}

/// The kind of the operation that `name` chooses; `None` when it chooses none, which the library
/// has the words for.
pub(super) fn kind(document: &ExecutableDocument, name: Option<&str>) -> Option<OperationType> {
    let mut operations = document.operations.iter();
    let chosen = match name {
        Some(name) => operations.find(|(it, _)| it.is_some_and(|it| it == name)),
        None => operations
            .next()
            .filter(|_| document.operations.iter().count() == 1),
    };
    chosen.map(|(_, operation)| operation.node.ty)
}

fn too(what: &str, most: usize) -> ServerError {
    let words = format!("the document {what}; the most is {most}");
    refused(Code::ResourceExhausted, words)
}

fn check(value: usize, most: usize, what: &str) -> Result<(), ServerError> {
    if value <= most {
        return Ok(());
    }
    Err(too(what, most))
}

/// Counts signs and words. A document that cannot be parsed may be counted wrongly, but never as
/// less deep than it is.
fn check_text(query: &str) -> Result<(), ServerError> {
    if query.len() > MAX_BYTES {
        let words = format!(
            "the document has {} bytes, and {MAX_BYTES} at most; put data into variables",
            query.len()
        );
        return Err(refused(Code::ResourceExhausted, words));
    }
    let bytes = query.as_bytes();
    let (mut tokens, mut depth, mut directives) = (0, 0_usize, 0);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        at += match byte {
            b' ' | b'\t' | b'\r' | b'\n' | b',' => 1,
            b'#' => length_until(&bytes[at..], |byte| matches!(byte, b'\r' | b'\n')),
            _ => {
                tokens += 1;
                match byte {
                    b'{' | b'(' | b'[' => depth += 1,
                    b'}' | b')' | b']' => depth = depth.saturating_sub(1),
                    b'@' => directives += 1,
                    _ => {}
                }
                match byte {
                    b'"' => string_length(&bytes[at..]),
                    _ if is_word(byte) => length_until(&bytes[at..], |byte| !is_word(byte)),
                    _ => 1,
                }
            }
        };
        check(tokens, MAX_TOKENS, "has too many words and signs")?;
        check(depth, MAX_BRACKETS, "has brackets too deep in each other")?;
        check(directives, MAX_DIRECTIVES, "has too many directives")?;
    }
    Ok(())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'.'
}

fn length_until(bytes: &[u8], is_end: impl Fn(u8) -> bool) -> usize {
    let end = bytes.iter().position(|byte| is_end(*byte));
    end.unwrap_or(bytes.len())
}

/// Length of the string that begins here, its quotes included. A string on one line that does not
/// end there is no string to the parser either.
fn string_length(bytes: &[u8]) -> usize {
    let is_block = bytes.starts_with(b"\"\"\"");
    let mut at = if is_block { 3 } else { 1 };
    while let Some(&byte) = bytes.get(at) {
        let rest = &bytes[at..];
        at += match byte {
            b'\\' if is_block && rest.starts_with(b"\\\"\"\"") => 4,
            b'\\' if !is_block => 2,
            b'"' if is_block && rest.starts_with(b"\"\"\"") => return at + 3,
            b'"' if !is_block => return at + 1,
            b'\r' | b'\n' if !is_block => return at,
            _ => 1,
        };
    }
    bytes.len()
}

/// What a selection grows to when its fragments are put in.
#[derive(Debug, Clone, Copy, Default)]
struct Growth {
    /// Fields of the selection itself.
    width: usize,
    /// Fields, those below included.
    fields: usize,
    aliases: usize,
    /// Selections in each other, this one included.
    depth: usize,
    /// Lists of introspection in each other.
    lists: usize,
    introspections: usize,
}

impl Growth {
    fn add(&mut self, other: Self) {
        self.width = self.width.saturating_add(other.width);
        self.fields = self.fields.saturating_add(other.fields);
        self.aliases = self.aliases.saturating_add(other.aliases);
        self.depth = self.depth.max(other.depth);
        self.lists = self.lists.max(other.lists);
        self.introspections = self.introspections.saturating_add(other.introspections);
    }
}

/// Measures fragments once each, however often they are spread.
struct Measure<'a> {
    fragments: &'a HashMap<Name, Positioned<FragmentDefinition>>,
    /// `None` while a fragment is being measured: whoever meets it then is inside of it.
    known: HashMap<&'a str, Option<Growth>>,
}

fn check_growth(document: &ExecutableDocument) -> Result<(), ServerError> {
    let mut measure = Measure {
        fragments: &document.fragments,
        known: HashMap::new(),
    };
    let mut all = Growth::default();
    for (_, operation) in document.operations.iter() {
        let operation = &operation.node;
        let growth = measure.selection(&operation.selection_set.node, 1)?;
        check(
            growth.width,
            MAX_ROOT_FIELDS,
            "asks for too many things at a time",
        )?;
        if operation.ty == OperationType::Subscription && growth.width != 1 {
            return Err(refused(
                Code::InvalidArgument,
                "a subscription must have exactly one field; send several",
            ));
        }
        all.add(growth);
    }
    // Those that are not spread anywhere are an error, but the rules look into them first.
    for name in document.fragments.keys() {
        measure.fragment(name, 1)?;
    }
    check(all.fields, MAX_FIELDS, "has too many fields")?;
    check(all.aliases, MAX_ALIASES, "has too many aliases")?;
    check(
        all.introspections,
        MAX_INTROSPECTIONS,
        "has too many introspections",
    )
}

impl<'a> Measure<'a> {
    /// `depth` is that of this selection.
    fn selection(&mut self, set: &'a SelectionSet, depth: usize) -> Result<Growth, ServerError> {
        check(depth, MAX_DEPTH, "is too deep")?;
        let mut growth = Growth::default();
        for item in &set.items {
            growth.add(match &item.node {
                Selection::Field(field) => {
                    let field = &field.node;
                    let name = field.name.node.as_str();
                    let mut below = Growth::default();
                    if !field.selection_set.node.items.is_empty() {
                        below = self.selection(&field.selection_set.node, depth + 1)?;
                    }
                    below.width = 1;
                    below.fields = below.fields.saturating_add(1);
                    below.aliases += usize::from(field.alias.is_some());
                    below.lists += usize::from(INTROSPECTION_LISTS.contains(&name));
                    if matches!(name, "__schema" | "__type") {
                        let words = "has lists of introspection too deep in each other";
                        check(below.lists, MAX_INTROSPECTION_LISTS, words)?;
                        below.introspections += 1;
                    }
                    below
                }
                Selection::InlineFragment(inline) => {
                    self.selection(&inline.node.selection_set.node, depth + 1)?
                }
                Selection::FragmentSpread(spread) => {
                    self.fragment(&spread.node.fragment_name.node, depth + 1)?
                }
            });
            check(growth.fields, MAX_FIELDS, "has too many fields")?;
        }
        growth.depth += 1;
        Ok(growth)
    }

    fn fragment(&mut self, name: &str, depth: usize) -> Result<Growth, ServerError> {
        // One that is not there is found by the rules, which have the words for it.
        let Some((name, fragment)) = self.fragments.get_key_value(name) else {
            return Ok(Growth::default());
        };
        match self.known.get(name.as_str()) {
            Some(Some(growth)) => {
                check(depth - 1 + growth.depth, MAX_DEPTH, "is too deep")?;
                return Ok(*growth);
            }
            Some(None) => {
                return Err(refused(
                    Code::InvalidArgument,
                    format!("the fragment {name} contains itself"),
                ));
            }
            None => {}
        }
        self.known.insert(name, None);
        let growth = self.selection(&fragment.node.selection_set.node, depth)?;
        self.known.insert(name, Some(growth));
        Ok(growth)
    }
}
