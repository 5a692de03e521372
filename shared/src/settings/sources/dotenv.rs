//! The `.env` file of the working directory. The environment of the process stays as it is.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::Path;
use std::rc::Rc;

use super::read_text;
use crate::settings::mistakes::{Mistake, Origin};
use crate::settings::values::Values;

/// Adds what the file sets; a missing file is none.
pub(in crate::settings) fn add(path: &Path, values: &mut Values) {
    let shown = path.display().to_string();
    match read_text(path) {
        Ok(text) => {
            for Entry { line, variable } in variables(&text) {
                match variable {
                    Ok((name, value)) => {
                        let origin = Origin::DotEnv {
                            path: shown.clone(),
                            line,
                        };
                        values.add_variable(&name, Ok(value), origin);
                    }
                    // The line itself is not shown: it may hold a secret of another program.
                    Err(problem) => values.cannot_read(Mistake::at(
                        format!("{} line {line}", shown.escape_debug()),
                        problem,
                    )),
                }
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => values.cannot_read(Mistake::at(
            shown.escape_debug().to_string(),
            format!("cannot be read: {error}; make it readable or remove it"),
        )),
    }
}

/// The line on which a variable begins; its name and value, or what is wrong with it.
struct Entry {
    line: usize,
    variable: Result<(String, String), String>,
}

/// The variables of an `.env` text with the lines on which they begin.
fn variables(text: &str) -> Vec<Entry> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let taken = Rc::new(Cell::new(0));
    let reader = LineByLine {
        rest: text.as_bytes(),
        taken: Rc::clone(&taken),
    };
    let mut parser = dotenvy::from_read_iter(reader);
    let mut found = Vec::new();
    loop {
        let before = taken.get();
        let Some(item) = parser.next() else { break };
        // Empty lines and comments before the variable belong to the same step of the parser.
        let skipped = lines[before..taken.get()].iter().take_while(|line| {
            let line = line.trim();
            line.is_empty() || line.starts_with('#')
        });
        let line = before + skipped.count() + 1;
        let variable = item.map_err(|error| match error {
            dotenvy::Error::LineParse(..) => "not of the form NAME=value; put a value with \
                spaces, quotes or $ into 'single quotes'"
                .to_owned(),
            other => format!("cannot be read: {other}"),
        });
        found.push(Entry { line, variable });
    }
    found
}

/// Hands out one line at a time and counts them: dotenvy does not say where it is.
struct LineByLine<'a> {
    rest: &'a [u8],
    taken: Rc<Cell<usize>>,
}

impl Read for LineByLine<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let length = end.map_or(self.rest.len(), |end| end + 1).min(buffer.len());
        let (line, rest) = self.rest.split_at(length);
        buffer[..length].copy_from_slice(line);
        self.rest = rest;
        // A line longer than the buffer arrives in parts and counts with its last one.
        if line.ends_with(b"\n") || (rest.is_empty() && length > 0) {
            self.taken.set(self.taken.get() + 1);
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_know_the_line_on_which_they_begin() {
        let text =
            "\u{feff}# a comment, it's one\n\nA=1\nexport B='two words'\n  # more\nC=\"x\ny\"\nD=";
        let found = variables(text);
        let expected = [
            (3, "A", "1"),
            (4, "B", "two words"),
            (6, "C", "x\ny"),
            (8, "D", ""),
        ];
        assert_eq!(found.len(), expected.len());
        for (entry, (line, name, value)) in found.into_iter().zip(expected) {
            assert_eq!(entry.line, line);
            assert_eq!(entry.variable, Ok((name.to_owned(), value.to_owned())));
        }
    }

    #[test]
    fn every_malformed_line_is_named() {
        let found = variables("A=1\nno equals sign\nB=2\n=x\nC=two words\nD='open\nE=1\n");
        let wrong: Vec<_> = found
            .iter()
            .filter(|entry| entry.variable.is_err())
            .map(|entry| entry.line)
            .collect();
        assert_eq!(wrong, [2, 4, 5, 6]);
    }

    #[test]
    fn a_line_longer_than_any_buffer_counts_once() {
        let text = format!("A={}\nwrong\n", "x".repeat(100_000));
        let found = variables(&text);
        assert_eq!((found[0].line, found[1].line), (1, 2));
        assert!(found[0].variable.is_ok() && found[1].variable.is_err());
    }
}
