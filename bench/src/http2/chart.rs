//! Pictures as SVG, drawn once for wide screens and once for narrow ones.
//!
//! Colours are names rather than looks: the page gives each of them another one in the dark.

use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::cartesian::Cartesian2d;
use plotters::coord::types::RangedCoordf64;
use plotters::drawing::{DrawingAreaErrorKind, IntoDrawingArea};
use plotters::element::{Circle, PathElement, Rectangle, Text};
use plotters::prelude::{DrawingBackend, SVGBackend};
use plotters::style::{Color, IntoFont, RGBColor, ShapeStyle, TextStyle};

use super::verdict::number;

/// Colours of the series, of what is written, and of lines behind the figures.
pub(crate) const SERIES: [RGBColor; 4] = [
    RGBColor(0x2a, 0x78, 0xd6),
    RGBColor(0xd1, 0x57, 0x0a),
    RGBColor(0x1a, 0x8a, 0x4a),
    RGBColor(0x82, 0x50, 0xdf),
];
const INK: RGBColor = RGBColor(0x1f, 0x23, 0x28);
const GRID: RGBColor = RGBColor(0xe1, 0xe4, 0xe8);
const AXIS: RGBColor = RGBColor(0x8c, 0x95, 0x9f);

/// Where both axes are figures.
type Plane<'a, DB> = ChartContext<'a, DB, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

/// Width and height of the two drawings, pixels.
const WIDE: (u32, u32) = (880, 340);
const NARROW: (u32, u32) = (360, 320);

/// One direction of a picture.
#[derive(Debug, Clone)]
pub(crate) struct Axis {
    /// What it shows, with its unit.
    label: String,
    scale: Scale,
}

#[derive(Debug, Clone)]
enum Scale {
    Linear,
    /// Tenfold at each step.
    Log,
    /// One line for each name, the first on top.
    Names(Vec<String>),
}

impl Axis {
    /// From zero, evenly.
    pub(crate) fn linear(label: &str) -> Self {
        Self::new(label, Scale::Linear)
    }

    /// Tenfold at each step, from 1.
    pub(crate) fn log(label: &str) -> Self {
        Self::new(label, Scale::Log)
    }

    /// Names instead of figures.
    pub(crate) fn names<N: Into<String>>(names: impl IntoIterator<Item = N>) -> Self {
        let names = names.into_iter().map(Into::into).collect();
        Self::new("", Scale::Names(names))
    }

    fn new(label: &str, scale: Scale) -> Self {
        let label = match scale {
            Scale::Log => format!("{label}, log scale"),
            _ => label.to_owned(),
        };
        Self { label, scale }
    }

    /// Where a value is.
    fn place(&self, value: f64) -> f64 {
        match &self.scale {
            Scale::Linear => value,
            Scale::Log => value.max(1.0).log10(),
            Scale::Names(names) => names.len() as f64 - 1.0 - value,
        }
    }

    fn range(&self, most: f64) -> std::ops::Range<f64> {
        match &self.scale {
            Scale::Linear => 0.0..(most * 1.05).max(f64::MIN_POSITIVE),
            Scale::Log => 0.0..(self.place(most) * 1.03).max(1.0),
            Scale::Names(names) => -0.6..names.len() as f64 - 0.4,
        }
    }

    /// What stands at a place.
    fn tick(&self, place: f64) -> String {
        let is_whole = (place - place.round()).abs() < 1e-6;
        match &self.scale {
            Scale::Linear if is_whole => number(place.round().max(0.0) as u64),
            Scale::Linear => format!("{place:.3}").trim_end_matches('0').to_owned(),
            Scale::Log if is_whole => number(10_f64.powf(place).round() as u64),
            Scale::Names(names) if is_whole => {
                let at = names.len() as f64 - 1.0 - place.round();
                names
                    .get(at as usize)
                    .filter(|_| at >= 0.0)
                    .cloned()
                    .unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    fn ticks(&self, most: f64, some: usize) -> usize {
        match &self.scale {
            Scale::Linear => some,
            Scale::Log => self.place(most).ceil() as usize + 1,
            Scale::Names(names) => names.len() + 1,
        }
    }
}

/// How figures are drawn.
#[derive(Debug, Clone)]
pub(crate) enum Marks {
    /// Points (x, y), joined.
    Line(Vec<(f64, f64)>),
    /// Points (x, y).
    Dots(Vec<(f64, f64)>),
    /// From x to x at y, with a dot at the end.
    Spans(Vec<(f64, f64, f64)>),
    /// The number of a name, and a value along x.
    Bars(Vec<(f64, f64)>),
}

impl Marks {
    /// The highest x and y.
    fn most(&self) -> (f64, f64) {
        let most = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            points.fold((0.0_f64, 0.0_f64), |most, point| {
                (most.0.max(point.0), most.1.max(point.1))
            })
        };
        match self {
            Self::Line(points) | Self::Dots(points) => most(&mut points.iter().copied()),
            Self::Spans(spans) => most(&mut spans.iter().map(|span| (span.1, span.2))),
            Self::Bars(bars) => most(&mut bars.iter().map(|bar| (bar.1, bar.0))),
        }
    }
}

/// Figures that belong together.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    marks: Marks,
}

impl Series {
    pub(crate) fn new(name: impl Into<String>, marks: Marks) -> Self {
        Self {
            name: name.into(),
            marks,
        }
    }
}

/// A picture.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: &'static str,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    /// At most as many as there are colours.
    pub(crate) series: Vec<Series>,
    /// Lines across, with their names.
    pub(crate) levels: Vec<(String, f64)>,
}

impl Chart {
    /// The picture for wide screens and the one for narrow ones.
    pub(crate) fn draw(&self) -> Result<[String; 2], String> {
        Ok([self.drawn(WIDE)?, self.drawn(NARROW)?])
    }

    fn drawn(&self, size: (u32, u32)) -> Result<String, String> {
        let mut svg = String::new();
        self.draw_into(&mut svg, size)
            .map_err(|error| format!("{}: {error}", self.title))?;
        Ok(svg)
    }

    fn draw_into(
        &self,
        svg: &mut String,
        size: (u32, u32),
    ) -> Result<(), Box<dyn std::error::Error>> {
        let is_wide = size == WIDE;
        let root = SVGBackend::with_string(svg, size).into_drawing_area();
        let mut most = (0.0_f64, 0.0_f64);
        for series in &self.series {
            let (x, y) = series.marks.most();
            most = (most.0.max(x), most.1.max(y));
        }
        for (_, level) in &self.levels {
            most.1 = most.1.max(*level);
        }
        let left = match (&self.y.scale, is_wide) {
            (Scale::Names(names), _) => {
                let longest = names.iter().map(|name| name.chars().count()).max();
                u32::try_from(longest.unwrap_or(0)).unwrap_or(0) * 7 + 16
            }
            (_, true) => 84,
            (_, false) => 66,
        };
        let (mut x, y) = (self.x.range(most.0), self.y.range(most.1));
        if matches!(self.y.scale, Scale::Names(_)) {
            // Room for the figures behind the bars.
            x.end *= 1.25;
        }
        let mut chart = ChartBuilder::on(&root)
            .margin(6)
            .margin_right(30)
            .x_label_area_size(46)
            .y_label_area_size(left)
            .build_cartesian_2d(x.clone(), y)?;
        let ink = TextStyle::from(("sans-serif", 16).into_font()).color(&INK);
        let (across, up) = if is_wide { (8, 6) } else { (4, 6) };
        chart
            .configure_mesh()
            .light_line_style(ShapeStyle::from(&GRID).stroke_width(0))
            .bold_line_style(GRID)
            .axis_style(AXIS)
            .label_style(ink.clone())
            .axis_desc_style(ink.clone())
            .x_desc(self.x.label.as_str())
            .y_desc(self.y.label.as_str())
            .x_labels(self.x.ticks(most.0, across))
            .y_labels(self.y.ticks(most.1, up))
            .x_label_formatter(&|place| self.x.tick(*place))
            .y_label_formatter(&|place| self.y.tick(*place))
            .max_light_lines(0)
            .draw()?;
        for (name, level) in &self.levels {
            let y = self.y.place(*level);
            let line = [(x.start, y), (x.end, y)];
            chart.draw_series([PathElement::new(line, AXIS.stroke_width(2))])?;
            let above = (x.start + (x.end - x.start) * 0.1, y + (most.1 * 0.08));
            let words = Text::new(name.clone(), above, ink.clone());
            chart.draw_series([words])?;
        }
        // The first is drawn last, so that nothing covers it.
        for (series, colour) in self.series.iter().zip(SERIES).rev() {
            self.draw_marks(&mut chart, &series.marks, colour, &ink)?;
        }
        root.present()?;
        drop(chart);
        drop(root);
        Ok(())
    }

    fn draw_marks<DB: DrawingBackend>(
        &self,
        chart: &mut Plane<'_, DB>,
        marks: &Marks,
        colour: RGBColor,
        ink: &TextStyle<'_>,
    ) -> Result<(), DrawingAreaErrorKind<DB::ErrorType>> {
        let x = chart.as_coord_spec().get_x_range();
        let at = |x: f64, y: f64| (self.x.place(x), self.y.place(y));
        match marks {
            Marks::Line(points) => {
                let points: Vec<_> = points.iter().map(|(x, y)| at(*x, *y)).collect();
                chart.draw_series([PathElement::new(points, colour.stroke_width(2))])?;
            }
            Marks::Dots(points) => {
                let dot = |(x, y): &(f64, f64)| Circle::new(at(*x, *y), 3, colour.filled());
                chart.draw_series(points.iter().map(dot))?;
            }
            Marks::Spans(spans) => {
                let line = |(from, to, y): &(f64, f64, f64)| {
                    PathElement::new([at(*from, *y), at(*to, *y)], colour.stroke_width(1))
                };
                chart.draw_series(spans.iter().map(line))?;
                let end =
                    |(_, to, y): &(f64, f64, f64)| Circle::new(at(*to, *y), 2, colour.filled());
                chart.draw_series(spans.iter().map(end))?;
            }
            Marks::Bars(bars) => {
                let bar = |(name, value): &(f64, f64)| {
                    let (_, y) = at(0.0, *name);
                    // One is nothing on a logarithmic axis, and shall be seen all the same.
                    let end = self.x.place(*value).max(x.end * 0.006);
                    Rectangle::new([(x.start, y - 0.3), (end, y + 0.3)], colour.filled())
                };
                chart.draw_series(bars.iter().map(bar))?;
                for (name, value) in bars {
                    let (_, y) = at(0.0, *name);
                    let end = self.x.place(*value).max(x.end * 0.006);
                    let place = (end + (x.end - x.start) * 0.01, y + 0.14);
                    let figure = Text::new(self.figure(*value), place, ink.clone());
                    chart.draw_series([figure])?;
                }
            }
        }
        Ok(())
    }

    /// A value beside its bar.
    fn figure(&self, value: f64) -> String {
        match value {
            value if value >= 10.0 || value.fract() == 0.0 => number(value.round() as u64),
            value => format!("{value:.1}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_stand_where_they_belong() {
        let log = Axis::log("bytes");
        assert_eq!(log.place(1_000.0), 3.0);
        assert_eq!(log.tick(3.0), "1,000");
        assert_eq!(log.tick(2.5), "");
        let names = Axis::names(["first", "second"]);
        assert_eq!(names.tick(names.place(0.0)), "first");
        assert_eq!(names.tick(names.place(1.0)), "second");
        assert_eq!(names.tick(7.0), "");
        assert_eq!(Axis::linear("ms").tick(0.25), "0.25");
    }

    #[test]
    fn both_drawings_have_their_labels() {
        let chart = Chart {
            title: "title",
            x: Axis::linear("time, ms"),
            y: Axis::linear("bytes"),
            series: vec![
                Series::new("line", Marks::Line(vec![(0.0, 1.0), (5.0, 9.0)])),
                Series::new("dots", Marks::Dots(vec![(1.0, 1.0)])),
                Series::new("spans", Marks::Spans(vec![(1.0, 2.0, 3.0)])),
            ],
            levels: vec![("a <window>".to_owned(), 8.0)],
        };
        for svg in chart.draw().unwrap() {
            assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
            assert!(svg.contains("time, ms") && svg.contains("bytes"));
            assert!(svg.contains("a &lt;window&gt;") && svg.contains("#2A78D6"));
        }
    }
}
