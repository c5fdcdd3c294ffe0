//! Statistics and tables.

use std::fmt;

/// Returns the value that a `share` of the figures does not exceed.
pub(crate) fn quantile(figures: &[f64], share: f64) -> f64 {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    figures
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

pub(crate) fn median(figures: &[f64]) -> f64 {
    quantile(figures, 0.5)
}

/// A median, and the range of most figures.
///
/// Formats the figures as in "1.12 (1.05 to 1.20)", or as "-" if there are none.
pub(crate) struct Spread {
    median: f64,
    p10: f64,
    p90: f64,
}

impl Spread {
    pub(crate) fn of(figures: &[f64]) -> Spread {
        Spread {
            median: median(figures),
            p10: quantile(figures, 0.1),
            p90: quantile(figures, 0.9),
        }
    }

    /// Divides the figure of each round by the floor's figure of the same round.
    pub(crate) fn of_ratios(figures: &[f64], floor: &[f64]) -> Spread {
        let ratios = figures
            .iter()
            .zip(floor)
            .map(|(figure, floor)| figure / floor);
        Spread::of(&ratios.collect::<Vec<_>>())
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.median.is_nan() {
            return f.write_str("-");
        }
        let [median, p10, p90] = [self.median, self.p10, self.p90].map(short);
        write!(f, "{median} ({p10} to {p90})")
    }
}

/// Formats a number with two decimals if it is small, and with none if it is large.
pub(crate) fn short(number: f64) -> String {
    if number < 9.995 {
        format!("{number:.2}")
    } else {
        whole(number)
    }
}

/// Formats a whole number with separated thousands.
pub(crate) fn whole(number: f64) -> String {
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A table in Markdown. All columns but the first are aligned to the right.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<'a>(header: impl IntoIterator<Item = &'a str>) -> Table {
        Table {
            rows: vec![header.into_iter().map(str::to_owned).collect()],
        }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub(crate) fn print(&self) {
        let columns = 0..self.rows[0].len();
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(4)
        };
        let widths: Vec<usize> = columns.map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            let cells = row.iter().zip(&widths).enumerate();
            let line = cells.map(|(column, (cell, &width))| match column {
                0 => format!("| {cell:width$} |"),
                _ => format!(" {cell:>width$} |"),
            });
            println!("{}", line.collect::<String>());
            if index == 0 {
                let rules = widths
                    .iter()
                    .enumerate()
                    .map(|(column, width)| match column {
                        0 => format!("|{:-<1$}|", "", width + 2),
                        _ => format!("{:-<1$}:|", "", width + 1),
                    });
                println!("{}", rules.collect::<String>());
            }
        }
    }
}
