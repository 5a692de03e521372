//! Columns of text: aligned, and wrapped where a cell is longer than its column.

/// Side of a column that its cells keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

/// A column.
#[derive(Debug, Clone, Copy)]
pub(super) struct Column {
    pub(super) side: Side,
    /// Longer cells go on in the next line.
    pub(super) most: usize,
}

/// Blanks between columns.
const GAP: usize = 2;

/// Lines up rows of cells; a row without cells becomes a rule. Rows may be shorter than `columns`.
pub(super) fn align(columns: &[Column], rows: &[Vec<String>]) -> String {
    let wrapped: Vec<Vec<Vec<String>>> = rows
        .iter()
        .map(|row| {
            row.iter()
                .zip(columns)
                .map(|(cell, column)| wrap(cell, column.most))
                .collect()
        })
        .collect();
    let mut widths = vec![0; columns.len()];
    for row in &wrapped {
        for (width, cell) in widths.iter_mut().zip(row) {
            let widest = cell
                .iter()
                .map(|line| line.chars().count())
                .max()
                .unwrap_or(0);
            *width = widest.max(*width);
        }
    }
    let total = widths.iter().sum::<usize>() + GAP * columns.len().saturating_sub(1);
    let mut text = String::new();
    for row in &wrapped {
        if row.is_empty() {
            text.push_str(&"─".repeat(total));
            text.push('\n');
            continue;
        }
        let height = row.iter().map(Vec::len).max().unwrap_or(0);
        for line in 0..height {
            text.push_str(&join(columns, &widths, row, line));
            text.push('\n');
        }
    }
    text
}

/// One line of a row, without blanks at its end.
fn join(columns: &[Column], widths: &[usize], row: &[Vec<String>], line: usize) -> String {
    let mut text = String::new();
    for (at, cell) in row.iter().enumerate() {
        if at > 0 {
            text.push_str(&" ".repeat(GAP));
        }
        let part = cell.get(line).map_or("", String::as_str);
        let blanks = " ".repeat(widths[at] - part.chars().count());
        match columns[at].side {
            Side::Left => text.extend([part, &blanks]),
            Side::Right => text.extend([&blanks, part]),
        }
    }
    text.truncate(text.trim_end().len());
    text
}

/// Breaks `text` between words into lines of at most `most` characters, at least one line; words
/// that are longer are cut.
fn wrap(text: &str, most: usize) -> Vec<String> {
    let most = most.max(1);
    let mut lines = vec![String::new()];
    let mut width = 0;
    // Leading blanks are kept: they show that a line belongs to the one above it.
    let indent = text.len() - text.trim_start().len();
    lines[0].push_str(&text[..indent]);
    for (count, word) in text.split_whitespace().enumerate() {
        let letters = word.chars().count();
        let lead = if count == 0 { indent } else { 1 };
        if width + lead + letters <= most {
            if count > 0 {
                lines.last_mut().expect("there is a first line").push(' ');
            }
            lines
                .last_mut()
                .expect("there is a first line")
                .push_str(word);
            width += lead + letters;
            continue;
        }
        let mut rest = word.chars();
        loop {
            let part: String = rest.by_ref().take(most).collect();
            if part.is_empty() {
                break;
            }
            width = part.chars().count();
            lines.push(part);
        }
    }
    if lines.len() > 1 && lines[0].trim().is_empty() {
        lines.remove(0);
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[&[&str]]) -> Vec<Vec<String>> {
        rows.iter()
            .map(|row| row.iter().map(|cell| (*cell).to_owned()).collect())
            .collect()
    }

    const COLUMNS: [Column; 3] = [
        Column {
            side: Side::Left,
            most: 20,
        },
        Column {
            side: Side::Right,
            most: 10,
        },
        Column {
            side: Side::Left,
            most: 8,
        },
    ];

    #[test]
    fn columns_keep_to_their_sides_and_lines_end_without_blanks() {
        let text = align(&COLUMNS, &rows(&[&["a", "1"], &[], &["größe", "10", "x"]]));
        assert_eq!(text, "a       1\n────────────\ngröße  10  x\n");
    }

    #[test]
    fn long_cells_go_on_below() {
        let text = align(
            &COLUMNS,
            &rows(&[&["a", "1", "one two three"], &["b", "", "abcdefghijk"]]),
        );
        assert_eq!(
            text,
            "a  1  one two\n      three\nb     abcdefgh\n      ijk\n"
        );
    }

    #[test]
    fn leading_blanks_stay() {
        assert_eq!(wrap("  of these", 20), ["  of these"]);
        assert_eq!(wrap("", 5), [""]);
        assert_eq!(wrap("    long", 5), ["long"]);
    }
}
