//! The pictures.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::os::median;

/// What is drawn beside one name.
pub(crate) struct Row<'a> {
    pub(crate) name: String,
    /// This crate.
    pub(crate) ours: bool,
    /// Bars show the first one only.
    pub(crate) figures: Vec<f64>,
    /// Written instead of a figure that there is none of.
    pub(crate) text: &'a str,
}

const WIDTH: u32 = 900;
const ROW: u32 = 26;
/// Room for names, for figures, above and below.
const LEFT: i32 = 330;
const RIGHT: i32 = 80;
const TOP: i32 = 44;
const BOTTOM: i32 = 34;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(220, 220, 220);
const OURS: RGBColor = RGBColor(0, 114, 178);
const THEIRS: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Each row's distribution on a logarithmic axis of microseconds, and its median.
pub(crate) fn distributions(file: &Path, rows: &[Row<'_>]) {
    const BINS: usize = 160;
    let all = || rows.iter().flat_map(|row| row.figures.iter().copied());
    let low = all().fold(f64::INFINITY, f64::min);
    let high = all().fold(0.0, f64::max);
    let axis = Axis::new(low / 1.2, high * 1.2);
    let area = canvas(file, rows.len());
    let title = "From exit to wake-up: µs, and their median (dashed: the floor's)";
    frame(&area, title, &axis, rows);

    let floor = axis.x(median(&rows[0].figures));
    for y in (TOP..bottom(rows.len())).step_by(8) {
        line(&area, (floor, y), (floor, y + 4), &INK);
    }
    for (index, row) in rows.iter().enumerate() {
        // A share of the figures in each bin, smoothed a little.
        let mut shares = [0.0; BINS];
        for &figure in &row.figures {
            let at = axis.share(figure) * BINS as f64;
            for (bin, share) in shares.iter_mut().enumerate() {
                let off = (bin as f64 + 0.5 - at) / 1.5;
                *share += (-off * off / 2.0).exp();
            }
        }
        let most = shares.iter().copied().fold(0.0, f64::max);
        let base = middle(index) + ROW as i32 / 2 - 3;
        let height = f64::from(ROW) - 5.0;
        let top = shares.iter().enumerate().map(|(bin, share)| {
            let x = axis.x_of_share((bin as f64 + 0.5) / BINS as f64);
            (x, base - (share / most * height).round() as i32)
        });
        // What is flat is left out.
        let shape: Vec<(i32, i32)> = top.filter(|&(_, y)| y < base).collect();
        if let (Some(&(first, _)), Some(&(last, _))) = (shape.first(), shape.last()) {
            let outline = [(first, base)]
                .into_iter()
                .chain(shape)
                .chain([(last, base)]);
            let outline: Vec<_> = outline.collect();
            let style = color(row).mix(0.55).filled();
            area.draw(&Polygon::new(outline, style)).expect("drawn");
        }
        let figure = median(&row.figures);
        let x = axis.x(figure);
        line(&area, (x, base - height as i32), (x, base), &INK);
        write(&area, &number(figure), WIDTH as i32 - 8, index, HPos::Right);
    }
    area.present().expect("a picture");
}

/// A bar for each row, on a logarithmic axis.
pub(crate) fn bars(file: &Path, title: &str, rows: &[Row<'_>]) {
    let all = || rows.iter().flat_map(|row| row.figures.first().copied());
    let high = all().fold(1.0, f64::max);
    let low = all().filter(|&figure| figure > 0.0).fold(high, f64::min);
    let axis = Axis::new((low / 2.0).min(1.0), high * 1.3);
    let area = canvas(file, rows.len());
    frame(&area, title, &axis, rows);
    for (index, row) in rows.iter().enumerate() {
        let Some(&figure) = row.figures.first() else {
            write(&area, row.text, LEFT + 6, index, HPos::Left);
            continue;
        };
        let (from, to) = (LEFT, axis.x(figure).max(LEFT + 1));
        let (y, half) = (middle(index), ROW as i32 / 2 - 5);
        let style = color(row).mix(0.8).filled();
        area.draw(&Rectangle::new([(from, y - half), (to, y + half)], style))
            .expect("drawn");
        let text = if row.text.is_empty() {
            number(figure)
        } else {
            row.text.to_owned()
        };
        write(&area, &text, WIDTH as i32 - 8, index, HPos::Right);
    }
    area.present().expect("a picture");
}

/// A logarithmic scale.
struct Axis {
    low: f64,
    high: f64,
}

impl Axis {
    fn new(low: f64, high: f64) -> Axis {
        Axis { low, high }
    }

    fn share(&self, figure: f64) -> f64 {
        ((figure / self.low).ln() / (self.high / self.low).ln()).clamp(0.0, 1.0)
    }

    fn x(&self, figure: f64) -> i32 {
        self.x_of_share(self.share(figure))
    }

    fn x_of_share(&self, share: f64) -> i32 {
        LEFT + (share * f64::from(WIDTH as i32 - LEFT - RIGHT)).round() as i32
    }

    /// Where it is marked: at 1, 10, 100, and between these too if it is short.
    fn marks(&self) -> Vec<f64> {
        let steps: &[f64] = if self.high / self.low > 300.0 {
            &[1.0]
        } else {
            &[1.0, 2.0, 5.0]
        };
        (-3..12)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|mark| (self.low..=self.high).contains(mark))
            .collect()
    }
}

fn canvas(file: &Path, rows: usize) -> Area<'_> {
    let size = (WIDTH, (bottom(rows) + BOTTOM) as u32);
    let area = SVGBackend::new(file, size).into_drawing_area();
    // Not transparent: a dark page would swallow the text.
    area.fill(&WHITE).expect("drawn");
    area
}

fn frame(area: &Area<'_>, title: &str, axis: &Axis, rows: &[Row<'_>]) {
    let style = ("sans-serif", 17).into_font().color(&INK);
    area.draw(&Text::new(title.to_owned(), (12, 12), style))
        .expect("drawn");
    let bottom = bottom(rows.len());
    for mark in axis.marks() {
        let x = axis.x(mark);
        line(area, (x, TOP), (x, bottom), &GRID);
        let style = ("sans-serif", 13).into_font().color(&INK);
        let style = style.pos(Pos::new(HPos::Center, VPos::Top));
        area.draw(&Text::new(number(mark), (x, bottom + 8), style))
            .expect("drawn");
    }
    for (index, row) in rows.iter().enumerate() {
        write(area, &row.name, LEFT - 10, index, HPos::Right);
    }
}

fn bottom(rows: usize) -> i32 {
    TOP + (rows as u32 * ROW) as i32
}

fn middle(row: usize) -> i32 {
    TOP + (row as u32 * ROW + ROW / 2) as i32
}

fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: &RGBColor) {
    area.draw(&PathElement::new([from, to], color))
        .expect("drawn");
}

fn write(area: &Area<'_>, text: &str, x: i32, row: usize, side: HPos) {
    let style = ("sans-serif", 13).into_font().color(&INK);
    let style = style.pos(Pos::new(side, VPos::Center));
    area.draw(&Text::new(text.to_owned(), (x, middle(row)), style))
        .expect("drawn");
}

fn color(row: &Row<'_>) -> RGBColor {
    if row.ours { OURS } else { THEIRS }
}

/// With thousands set apart.
fn number(figure: f64) -> String {
    if figure < 1.0 && figure > 0.0 {
        return format!("{figure:.1}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
