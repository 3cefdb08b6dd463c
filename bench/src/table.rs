//! What a measurement prints: a Markdown table that also reads well in a terminal, and one line
//! of JSON for programs.
//!
//! In: cells as text. Out: text.

use serde_json::Value;
use std::fmt;

/// A table: a head and rows of as many cells.
#[derive(Clone, Debug, Default)]
pub struct Table {
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads and no rows.
    pub fn new<const N: usize>(head: [&str; N]) -> Self {
        Self { head: head.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// Adds a row; a missing cell is left empty.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    fn widths(&self) -> Vec<usize> {
        let width = |column: usize| {
            let cells = std::iter::once(&self.head).chain(&self.rows);
            cells.map(|row| row.get(column).map_or(0, |cell| cell.chars().count())).max()
        };
        (0..self.head.len()).map(|column| width(column).unwrap_or(0).max(3)).collect()
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let widths = self.widths();
        let line = |f: &mut fmt::Formatter<'_>, row: &[String]| -> fmt::Result {
            for (column, width) in widths.iter().enumerate() {
                let cell = row.get(column).map_or("", String::as_str);
                match column {
                    0 => write!(f, "| {cell:<width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")
        };
        line(f, &self.head)?;
        for (column, width) in widths.iter().enumerate() {
            let dashes = "-".repeat(*width);
            match column {
                0 => write!(f, "| {dashes} ")?,
                _ => write!(f, "| {}: ", &dashes[1..])?,
            }
        }
        writeln!(f, "|")?;
        self.rows.iter().try_for_each(|row| line(f, row))
    }
}

/// What a measurement found, ready to be printed.
#[derive(Clone, Debug)]
pub struct Report {
    /// What was measured, in a line.
    pub title: String,
    /// The figures.
    pub table: Table,
    /// What the reader should know about them.
    pub notes: Vec<String>,
    /// The same for programs.
    pub json: Value,
}

impl Report {
    /// Prints the report, and its JSON as the last line if asked for.
    pub fn print(&self, json: bool) {
        println!("{}\n\n{}", self.title, self.table);
        for note in &self.notes {
            println!("{note}");
        }
        if json {
            println!("{}", self.json);
        }
    }
}

/// A whole number with thousands separated.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// The middle of `values` (the mean of the two middle ones), NaN if there are none.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => (values[middle - 1] + values[middle]) / 2.0,
    }
}

/// The value that this share of `values` stays within, NaN if there are none.
pub fn quantile(values: impl IntoIterator<Item = f64>, share: f64) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let rank = (values.len() as f64 * share).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up() {
        let mut table = Table::new(["what", "µs"]);
        table.row(["server".to_owned(), "9.1".to_owned()]);
        table.row(["floor".to_owned(), "10.25".to_owned()]);
        let expected =
            "| what   |    µs |\n| ------ | ----: |\n| server |   9.1 |\n| floor  | 10.25 |\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn a_table_without_rows_is_its_head() {
        assert_eq!(Table::new(["a"]).to_string(), "| a   |\n| --- |\n");
    }

    #[test]
    fn a_short_row_is_filled_up() {
        let mut table = Table::new(["a", "b"]);
        table.row(["x".to_owned()]);
        assert_eq!(table.to_string(), "| a   |   b |\n| --- | --: |\n| x   |     |\n");
    }

    #[test]
    fn thousands_are_separated() {
        let shown = [0, 999, 1000, 1_234_567].map(count);
        assert_eq!(shown, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median([]).is_nan());
    }

    #[test]
    fn a_quantile_is_one_of_the_values() {
        let values = || (1..=200).rev().map(f64::from);
        let found = [0.0, 0.5, 0.99, 1.0].map(|share| quantile(values(), share));
        assert_eq!(found, [1.0, 100.0, 198.0, 200.0]);
        assert!(quantile([], 0.5).is_nan());
    }
}
