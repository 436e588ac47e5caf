//! A chart of any lines with a legend: how one figure grows with another.

use super::axis::Axis;
use super::chart::{Chart, Frame, WIDTH, colour, document, stroke, text};
use super::text::{cut, escape};

const LEFT: f64 = 92.0;
const TOP: f64 = 72.0;
const BELOW: f64 = 64.0;
const LEGEND_WIDTH: f64 = 210.0;
const LEGEND_STEP: f64 = 22.0;
const LEGEND_CHARACTERS: usize = 24;
const TITLE_CHARACTERS: usize = 80;
const LABEL_CHARACTERS: usize = 60;
const PLOT_HEIGHT: f64 = 304.0;
/// With more points than this, dots would hide their line.
const DOTS_MAX: usize = 40;

/// One line for each series, by its name, as a whole SVG file; `log_x` where x grows by factors.
pub(crate) fn lines(
    title: &str,
    x_label: &str,
    y_label: &str,
    series: &[(String, Vec<(f64, f64)>)],
    log_x: bool,
) -> String {
    let points = || series.iter().flat_map(|(_, points)| points.iter().copied());
    let across = points().map(|(x, _)| x);
    let x = if log_x { Axis::logarithmic(across) } else { Axis::exact(across, 8.0) };
    // A long legend makes the chart higher: names over one another cannot be read.
    let height = PLOT_HEIGHT.max(series.len() as f64 * LEGEND_STEP);
    let frame = Frame { left: LEFT, top: TOP, width: WIDTH - LEFT - LEGEND_WIDTH - 24.0, height };
    let chart = Chart { frame, x, y: Axis::rounded(points().map(|(_, y)| y), 6.0) };
    let mut body = text(24.0, 38.0, "title", &cut(title, TITLE_CHARACTERS));
    body.push_str(&chart.grid());
    for (index, (_, points)) in series.iter().enumerate() {
        body.push_str(&chart.line(points, &colour(index)));
        if points.len() <= DOTS_MAX && points.len() > 1 {
            body.push_str(&chart.dots(points, &colour(index)));
        }
    }
    if points().next().is_none() {
        let (x, y) = (frame.left + frame.width / 2.0, frame.top + height / 2.0);
        body.push_str(&text(x, y, "muted middle", "no points"));
    }
    body.push_str(&legend(series));
    body.push_str(&labels(x_label, y_label, &frame));
    document(TOP + height + BELOW, title, &body)
}

fn legend(series: &[(String, Vec<(f64, f64)>)]) -> String {
    let left = WIDTH - LEGEND_WIDTH;
    let entry = |(index, (name, _)): (usize, &(String, _))| {
        let y = TOP + 8.0 + index as f64 * LEGEND_STEP;
        let class = format!("line {}", colour(index));
        stroke((left, y), (left + 22.0, y), &class) + &text(left + 30.0, y + 4.0, "", &cut(name, LEGEND_CHARACTERS))
    };
    series.iter().enumerate().map(entry).collect()
}

fn labels(x_label: &str, y_label: &str, frame: &Frame) -> String {
    let (x, y) = (frame.left + frame.width / 2.0, frame.top + frame.height / 2.0);
    let across = text(x, frame.top + frame.height + 44.0, "muted middle", &cut(x_label, LABEL_CHARACTERS));
    let up = escape(&cut(y_label, LABEL_CHARACTERS));
    format!("{across}<text class=\"muted middle\" transform=\"translate(30 {y:.1}) rotate(-90)\">{up}</text>\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(name: &str, points: &[(f64, f64)]) -> (String, Vec<(f64, f64)>) {
        (name.to_owned(), points.to_vec())
    }

    #[test]
    fn each_series_has_a_line_and_a_name() {
        let one = series("one", &[(100.0, 1.0), (1000.0, 2.0), (100_000.0, 9.0)]);
        let other = series("other", &[(100.0, 2.0), (100_000.0, 3.0)]);
        let drawn = lines("Growth", "partitions", "ms", &[one, other], true);
        assert_eq!(drawn.matches("<polyline").count(), 2);
        for expected in ["one", "other", "Growth", "partitions", "ms", ">100,000<", ">10,000<"] {
            assert!(drawn.contains(expected), "{expected} is not in {drawn}");
        }
    }

    #[test]
    fn texts_are_escaped() {
        let drawn = lines("<t>", "<x>", "<y>", &[series("<s>", &[])], false);
        for name in ["t", "x", "y", "s"] {
            assert!(drawn.contains(&format!("&lt;{name}&gt;")) && !drawn.contains(&format!("<{name}>")), "{name}");
        }
    }

    #[test]
    fn no_series_and_empty_ones_say_so() {
        assert!(lines("", "", "", &[], true).contains("no points"));
        assert!(lines("", "", "", &[series("a", &[])], false).contains("no points"));
    }

    #[test]
    fn points_that_cannot_be_drawn_are_left_out() {
        let points = [(0.0, 1.0), (10.0, f64::NAN), (100.0, 2.0), (1000.0, 3.0)];
        let drawn = lines("", "", "", &[series("a", &points)], true);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        assert_eq!(drawn.matches("<circle").count(), 2);
    }

    #[test]
    fn a_long_legend_makes_the_chart_higher() {
        let many: Vec<_> = (0..30).map(|index| series(&format!("s{index}"), &[(1.0, 1.0)])).collect();
        let height = TOP + 30.0 * LEGEND_STEP + BELOW;
        assert!(lines("", "", "", &many, false).contains(&format!("viewBox=\"0 0 960 {height}\"")));
    }
}
