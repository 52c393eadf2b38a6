//! A table for a terminal: columns as wide as they need, and the last one cut where the terminal ends.
//! What is in it is left to the tools.

use std::io::IsTerminal as _;

/// Between two columns.
const GAP: &str = "  ";
/// A last column narrower than this is not cut: it would say nothing.
const LAST_MIN: usize = 20;

/// Rows under a head.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    head: [&'static str; N],
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// No rows yet.
    pub(crate) fn new(head: [&'static str; N]) -> Self {
        Self { head, rows: Vec::new() }
    }

    /// Adds one.
    pub(crate) fn row(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// As text, its lines no longer than that.
    pub(crate) fn text(&self, width: Option<usize>) -> String {
        let head = self.head.map(str::to_owned);
        let rows = || std::iter::once(&head).chain(&self.rows);
        let widths: Vec<usize> = (0..N)
            .map(|column| {
                rows().filter_map(|row| row.get(column)).map(|cell| length(cell)).max().unwrap_or(0)
            })
            .collect();
        rows().map(|row| line(row, &widths, width)).collect()
    }
}

fn line(row: &[String], widths: &[usize], limit: Option<usize>) -> String {
    let Some((last, before)) = row.split_last() else { return "\n".to_owned() };
    let mut line = String::new();
    for (cell, width) in before.iter().zip(widths) {
        line.push_str(cell);
        line.push_str(&" ".repeat(width.saturating_sub(length(cell))));
        line.push_str(GAP);
    }
    let room = limit.map(|limit| limit.saturating_sub(length(&line)).max(LAST_MIN));
    line.push_str(&cut(last, room));
    let mut line = line.trim_end().to_owned();
    line.push('\n');
    line
}

fn cut(text: &str, room: Option<usize>) -> String {
    match room {
        Some(room) if length(text) > room => text.chars().take(room.saturating_sub(1)).chain(['…']).collect(),
        _ => text.to_owned(),
    }
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// How wide the terminal is that reads our answer; `None`: it is no terminal, and nothing is cut.
pub(crate) fn width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_the_last_ends_with_the_terminal() {
        let mut table = Table::new(["KIND", "MESSAGE"]);
        table.row(["KeyVault".into(), "contoso.vault.azure.net was reached and let us in".into()]);
        table.row(["kürzer".into(), "é".into()]);
        let whole =
            "KIND      MESSAGE\nKeyVault  contoso.vault.azure.net was reached and let us in\nkürzer    é\n";
        assert_eq!(table.text(None), whole);
        assert_eq!(table.text(Some(200)), whole);
        let cut = "KIND      MESSAGE\nKeyVault  contoso.vault.azure.n…\nkürzer    é\n";
        assert_eq!(table.text(Some(32)), cut);
        // A terminal that is too narrow shows something all the same.
        assert!(table.text(Some(5)).contains("KeyVault  contoso.vault.azure…\n"), "{}", table.text(Some(5)));
    }
}
