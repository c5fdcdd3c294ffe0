//! SVG charts of the results.
//!
//! The text is large enough to be read when a chart is shown at two thirds of its width.

use std::path::Path;

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::report::{median, quantile, short, whole};

/// A labelled value.
pub(crate) struct Bar<'a> {
    pub(crate) label: &'a str,
    /// Whether the contender uses this crate.
    pub(crate) ours: bool,
    pub(crate) value: f64,
}

/// Values measured for the same kind of process.
pub(crate) struct Panel<'a> {
    pub(crate) heading: &'a str,
    /// The first row is the floor of this panel.
    pub(crate) rows: Vec<Distribution<'a>>,
}

/// Labelled measurements, in microseconds.
pub(crate) struct Distribution<'a> {
    pub(crate) label: &'a str,
    /// Whether the contender uses this crate.
    pub(crate) ours: bool,
    pub(crate) values: Vec<f64>,
}

const WIDTH: i32 = 640;
const MARGIN: i32 = 14;
/// Right end of the labels, and left end of the plot.
const LABELS: i32 = 212;
const LEFT: i32 = 222;
const ROW: i32 = 36;
/// Font sizes in pixels.
const TITLE: f64 = 23.0;
const TEXT: f64 = 19.0;

const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(220, 220, 220);
const OURS: RGBColor = RGBColor(0, 114, 178);
const THEIRS: RGBColor = RGBColor(150, 150, 150);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Draws a bar for each value, from zero.
pub(crate) fn bars(file: &Path, title: &str, note: &str, bars: &[Bar<'_>]) {
    const TOP: i32 = 90;
    /// Room for a number behind the longest bar.
    const NUMBER: i32 = 90;
    let area = canvas(file, TOP + bars.len() as i32 * ROW + MARGIN);
    write(&area, title, TITLE, (MARGIN, 26), HPos::Left);
    write(&area, note, TEXT, (MARGIN, 62), HPos::Left);
    let most = bars.iter().map(|bar| bar.value).fold(1.0, f64::max);
    let width = f64::from(WIDTH - LEFT - NUMBER);
    for (index, bar) in bars.iter().enumerate() {
        let y = TOP + index as i32 * ROW + ROW / 2;
        let end = LEFT + ((bar.value / most * width).round() as i32).max(2);
        let style = color(bar.ours).mix(0.8).filled();
        draw(
            &area,
            &Rectangle::new([(LEFT, y - 11), (end, y + 11)], style),
        );
        write(&area, bar.label, TEXT, (LABELS, y), HPos::Right);
        write(&area, &whole(bar.value), TEXT, (end + 8, y), HPos::Left);
    }
    area.present().expect("the chart is written");
}

/// Draws the distributions of each panel, their medians, and the ratios of the medians to the
/// panel's floor.
pub(crate) fn distributions(file: &Path, title: &str, note: &str, panels: &[Panel<'_>]) {
    const TOP: i32 = 84;
    const HEADING: i32 = 42;
    const BETWEEN: i32 = 16;
    const TICKS: i32 = 40;
    let height_of = |panel: &Panel<'_>| HEADING + panel.rows.len() as i32 * ROW + BETWEEN;
    let height = TOP + panels.iter().map(height_of).sum::<i32>() + TICKS;
    let area = canvas(file, height);
    write(&area, title, TITLE, (MARGIN, 26), HPos::Left);
    write(&area, note, TEXT, (MARGIN, 62), HPos::Left);
    let axis = Axis::of(panels);
    let mut top = TOP;
    for panel in panels {
        let rows_top = top + HEADING;
        let rows_bottom = rows_top + panel.rows.len() as i32 * ROW;
        let heading = top + HEADING / 2;
        write(&area, panel.heading, TEXT, (MARGIN, heading), HPos::Left);
        write(&area, "median", TEXT, (MEDIANS, heading), HPos::Right);
        write(&area, "ratio", TEXT, (RATIOS, heading), HPos::Right);
        for tick in axis.ticks() {
            let x = axis.x(tick);
            line(&area, (x, rows_top), (x, rows_bottom), &GRID);
        }
        let floor = median(&panel.rows[0].values);
        for (index, row) in panel.rows.iter().enumerate() {
            let y = rows_top + index as i32 * ROW;
            distribution(&area, &axis, row, floor, y);
        }
        let x = axis.x(floor);
        for y in (rows_top..rows_bottom).step_by(8) {
            line(&area, (x, y), (x, (y + 4).min(rows_bottom)), &INK);
        }
        top += height_of(panel);
    }
    for tick in axis.ticks() {
        let text = match whole(tick) {
            zero if tick == 0.0 => format!("{zero} µs"),
            text => text,
        };
        let y = height - TICKS / 2 - 8;
        write(&area, &text, TEXT, (axis.x(tick), y), HPos::Center);
    }
    area.present().expect("the chart is written");
}

/// Right end of the plot, and right ends of the two columns of numbers beside the plot.
const RIGHT: i32 = 462;
const MEDIANS: i32 = 552;
const RATIOS: i32 = WIDTH - MARGIN;

/// Draws a row whose top is `top`.
fn distribution(area: &Area<'_>, axis: &Axis, row: &Distribution<'_>, floor: f64, top: i32) {
    let base = top + ROW - 3;
    let middle = top + ROW / 2;
    let figure = median(&row.values);
    if figure > axis.end {
        // Draw an arrow: the median is off the scale.
        let style = color(row.ours).filled();
        let head = vec![
            (RIGHT - 14, middle - 9),
            (RIGHT, middle),
            (RIGHT - 14, middle + 9),
        ];
        draw(area, &Polygon::new(head, style));
        let shaft = [(RIGHT - 40, middle - 2), (RIGHT - 14, middle + 2)];
        draw(area, &Rectangle::new(shaft, style));
    } else {
        let height = f64::from(ROW) - 6.0;
        let shares = smoothed(axis, &row.values);
        let most = shares.iter().copied().fold(0.0, f64::max);
        let top = shares.iter().enumerate().map(|(x, share)| {
            let height = (share / most * height).round() as i32;
            (LEFT + x as i32, base - height)
        });
        // Omit the flat ends.
        let shape: Vec<(i32, i32)> = top.filter(|&(_, y)| y < base).collect();
        if let (Some(&(first, _)), Some(&(last, _))) = (shape.first(), shape.last()) {
            let outline = [(first, base)]
                .into_iter()
                .chain(shape)
                .chain([(last, base)]);
            let style = color(row.ours).mix(0.55).filled();
            draw(area, &Polygon::new(outline.collect::<Vec<_>>(), style));
        }
        let x = axis.x(figure);
        line(area, (x, base - height as i32), (x, base), &INK);
    }
    write(area, row.label, TEXT, (LABELS, middle), HPos::Right);
    write(area, &whole(figure), TEXT, (MEDIANS, middle), HPos::Right);
    write(
        area,
        &short(figure / floor),
        TEXT,
        (RATIOS, middle),
        HPos::Right,
    );
}

/// Returns the density of `values` at each pixel of the axis.
fn smoothed(axis: &Axis, values: &[f64]) -> Vec<f64> {
    /// The standard deviation of the kernel, in pixels.
    const SPREAD: f64 = 3.0;
    let mut shares = vec![0.0; (RIGHT - LEFT) as usize];
    for &value in values {
        let at = value / axis.end * shares.len() as f64;
        for (x, share) in shares.iter_mut().enumerate() {
            let off = (x as f64 + 0.5 - at) / SPREAD;
            *share += (-off * off / 2.0).exp();
        }
    }
    shares
}

/// A linear scale from zero, shared by all panels.
struct Axis {
    end: f64,
}

impl Axis {
    /// A median that is more than this many times the floor is off the scale.
    const OFF_SCALE: f64 = 3.0;

    /// Returns an axis on which nearly all values fit that are not off the scale.
    ///
    /// The axis ends at most at `OFF_SCALE` times the largest floor.
    fn of(panels: &[Panel<'_>]) -> Axis {
        let (mut end, mut limit) = (0.0, 0.0);
        for panel in panels {
            let most = median(&panel.rows[0].values) * Axis::OFF_SCALE;
            limit = most.max(limit);
            let shown = panel.rows.iter().map(|row| &row.values);
            let shown = shown.filter(|values| median(values) <= most);
            end = shown
                .map(|values| quantile(values, 0.95))
                .fold(end, f64::max);
        }
        Axis {
            end: limit.min(end * 1.05),
        }
    }

    fn x(&self, value: f64) -> i32 {
        LEFT + (value / self.end * f64::from(RIGHT - LEFT)).round() as i32
    }

    fn ticks(&self) -> Vec<f64> {
        let power = 10f64.powf(self.end.log10().floor());
        let steps = [0.2, 0.5, 1.0, 2.0, 5.0].map(|step| step * power);
        let step = steps.into_iter().find(|step| self.end / step <= 5.0);
        let step = step.unwrap_or(self.end);
        let ticks = (0..=5).map(|index| f64::from(index) * step);
        ticks.filter(|&tick| tick <= self.end).collect()
    }
}

fn canvas(file: &Path, height: i32) -> Area<'_> {
    let area = SVGBackend::new(file, (WIDTH as u32, height as u32)).into_drawing_area();
    // A transparent background would leave dark text on a dark page.
    area.fill(&WHITE).expect("the chart is drawn");
    area
}

fn write(area: &Area<'_>, text: &str, size: f64, at: (i32, i32), side: HPos) {
    // plotters divides a font size by 1.24 when it writes SVG.
    let style = ("sans-serif", size * 1.24).into_font().color(&INK);
    let style = style.pos(Pos::new(side, VPos::Center));
    draw(area, &Text::new(text.to_owned(), at, style));
}

fn line(area: &Area<'_>, from: (i32, i32), to: (i32, i32), color: &RGBColor) {
    draw(area, &PathElement::new([from, to], color));
}

fn draw<'a, 'b, E>(area: &Area<'a>, element: &'b E)
where
    &'b E: plotters::element::PointCollection<'b, (i32, i32)>,
    E: plotters::element::Drawable<SVGBackend<'a>>,
{
    area.draw(element).expect("the chart is drawn");
}

fn color(ours: bool) -> RGBColor {
    if ours { OURS } else { THEIRS }
}
