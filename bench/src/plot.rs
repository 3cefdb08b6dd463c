//! Line charts as SVG, with a logarithmic horizontal axis.
//!
//! In: named lines of points. Out: SVG text.

use crate::table::count;
use anyhow::{Context, Result};
use plotters::prelude::*;

/// Colours that can be told apart by those who see few, on white.
const COLOURS: [RGBColor; 3] = [RGBColor(0, 90, 181), RGBColor(220, 50, 32), RGBColor(26, 133, 26)];

const GRID: RGBColor = RGBColor(220, 220, 220);

/// A chart.
#[derive(Clone, Debug)]
pub struct Plot {
    /// Its file's name, without an ending.
    pub name: &'static str,
    /// Its title.
    pub title: &'static str,
    /// What grows.
    pub x: &'static str,
    /// What is measured, with its unit.
    pub y: &'static str,
    /// The lines.
    pub lines: Vec<Line>,
}

/// A named line.
#[derive(Clone, Debug)]
pub struct Line {
    name: &'static str,
    points: Vec<(f64, f64)>,
}

impl Line {
    /// What `of` says of each point.
    pub fn new<T>(name: &'static str, points: &[(f64, T)], of: impl Fn(&T) -> f64) -> Self {
        Self { name, points: points.iter().map(|(x, y)| (*x, of(y))).collect() }
    }
}

impl Plot {
    /// The chart as text.
    pub fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.draw(&mut svg).ok().context("the chart could not be drawn")?;
        Ok(svg)
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let (from, to) =
            points().fold((f64::MAX, 1.0), |(from, to), (x, _)| (x.min(from), x.max(to)));
        let top = points().map(|(_, y)| *y).filter(|y| y.is_finite()).fold(0.0, f64::max) * 1.1;
        let area = SVGBackend::with_string(svg, (640, 360)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(self.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(56)
            .build_cartesian_2d((from..to * 1.05).log_scale(), 0.0..top.max(1.0))?;
        let (x, y) = (self.x, self.y);
        chart
            .configure_mesh()
            .x_desc(x)
            .y_desc(y)
            .x_labels(6)
            .x_label_formatter(&|x| count(*x as u64))
            .y_label_formatter(&|y| format!("{y:.0}"))
            .bold_line_style(GRID)
            .light_line_style(WHITE)
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            chart
                .draw_series(LineSeries::new(line.points.iter().copied(), colour).point_size(3))?
                .label(line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE)
            .border_style(GRID)
            .draw()?;
        area.present()?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chart_has_its_title_and_its_lines() {
        let points = [(1_000.0, 9.0), (19_000.0, 12.5)];
        let lines = vec![Line::new("cost", &points, |y| *y)];
        let plot = Plot { name: "n", title: "Cost", x: "clients", y: "µs", lines };
        let svg = plot.svg().expect("a chart");
        assert!(
            svg.starts_with("<svg") && svg.contains("Cost") && svg.contains("polyline"),
            "{svg}"
        );
    }
}
