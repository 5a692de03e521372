//! Findings for people.

use std::fmt::Write as _;

use shared::report::format::printable;

use super::{Finding, Level};

/// Longest finding that is told in full: what others say is in them.
const LONGEST: usize = 2_000;

/// Where the text of a finding begins.
const INDENT: usize = 11;

/// Findings by group, with the sums at the end; broken into lines of so many columns, if it is to be.
pub(crate) fn text(findings: &[Finding], colour: bool, columns: Option<usize>) -> String {
    let mut text = String::new();
    let mut heading = None;
    for finding in findings {
        if heading != Some(finding.group) {
            let gap = if heading.is_some() { "\n" } else { "" };
            let word = painted(&finding.group.key(), BOLD, colour);
            let _ = writeln!(text, "{gap}{word}");
            heading = Some(finding.group);
        }
        let word = format!("{:<7}", finding.level.key());
        let _ = write!(text, "  {}  ", painted(&word, paint(finding.level), colour));
        write(&mut text, &finding.found, columns);
        if let Some(fix) = &finding.fix {
            let _ = write!(text, "{:INDENT$}", "");
            write(&mut text, &format!("fix: {fix}"), columns);
        }
    }
    let count = |level| findings.iter().filter(|it| it.level == level).count();
    let sums = [Level::Problem, Level::Warning, Level::Note, Level::Ok].map(|level| {
        let count = count(level);
        let s = if count == 1 || level == Level::Ok {
            ""
        } else {
            "s"
        };
        format!("{count} {}{s}", level.key())
    });
    let worst = findings.iter().map(|it| it.level).max();
    let line = painted(&sums.join(", "), paint(worst.unwrap_or(Level::Ok)), colour);
    let _ = writeln!(text, "\n{line}");
    text
}

const BOLD: &str = "1";

fn paint(level: Level) -> &'static str {
    match level {
        Level::Ok => "32",
        Level::Note => "36",
        Level::Warning => "33",
        Level::Problem => "31",
    }
}

fn painted(text: &str, code: &str, colour: bool) -> String {
    match colour {
        true => format!("\u{1b}[{code}m{text}\u{1b}[0m"),
        false => text.to_owned(),
    }
}

/// Writes words behind the indent, on as many lines as it takes. Without columns it is one line, which
/// programs like `grep` want.
fn write(text: &mut String, words: &str, columns: Option<usize>) {
    let words = printable(words, LONGEST);
    let room = columns.map_or(usize::MAX, |columns| columns.saturating_sub(INDENT).max(20));
    let mut used = 0;
    for word in words.split(' ') {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > room {
            let _ = write!(text, "\n{:INDENT$}", "");
            used = 0;
        }
        if used > 0 {
            text.push(' ');
            used += 1;
        }
        text.push_str(word);
        used += length;
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::super::Group;
    use super::*;

    fn findings() -> Vec<Finding> {
        let place = (Group::Clock, "offset");
        vec![
            Finding::ok(Group::Settings, "read", "2 settings"),
            Finding::bad(
                Level::Problem,
                place,
                "late\u{1b}[2J by far",
                "set the clock right",
            ),
        ]
    }

    #[test]
    fn in_a_pipe_every_finding_is_a_line_without_colours() {
        assert_eq!(
            text(&findings(), false, None),
            "settings\n  ok       2 settings\n\nclock\n  problem  late\u{fffd}[2J by far\n           \
             fix: set the clock right\n\n1 problem, 0 warnings, 0 notes, 1 ok\n"
        );
    }

    #[test]
    fn on_a_terminal_lines_are_broken_and_coloured() {
        let text = text(&findings(), true, Some(31));
        assert!(text.contains("\u{1b}[31mproblem\u{1b}[0m  late"), "{text}");
        assert!(
            text.contains("fix: set the clock\n           right\n"),
            "{text}"
        );
    }
}
