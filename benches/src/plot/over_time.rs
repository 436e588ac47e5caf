//! How a scenario went over time: three small charts in a row, for figures of three units.

use super::axis::Axis;
use super::chart::{Chart, Frame, WIDTH, colour, document, stroke, text};
use super::text::cut;
use crate::outcome::{Outcome, Sample};

const HEIGHT: f64 = 216.0;
const PANELS: f64 = 3.0;
const MARGIN: f64 = 12.0;
const LABELS_WIDTH: f64 = 58.0;
const MIB: f64 = 1024.0 * 1024.0;
/// A title longer than this would run into the legend.
const TITLE_CHARACTERS: usize = 40;

/// A line's name, and what it shows of a moment.
type Line = (&'static str, fn(&Sample) -> f64);

/// What one of the charts shows.
struct Panel {
    title: &'static str,
    lines: Vec<Line>,
}

/// Throughput, latency of pushes and memory of the largest worker over time, as an SVG to be put in a page.
pub(crate) fn over_time(outcome: &Outcome) -> String {
    let panels = [
        Panel {
            title: "Throughput, MiB/s",
            lines: vec![("push", |sample| sample.push_mib_s), ("fetch", |sample| sample.fetch_mib_s)],
        },
        Panel { title: "Mean push latency, ms", lines: vec![("push", |sample| sample.push_ms)] },
        Panel {
            title: "Largest worker's memory, MiB",
            lines: vec![("memory", |sample| sample.worker_rss_bytes as f64 / MIB)],
        },
    ];
    let width = (WIDTH - 2.0 * MARGIN) / PANELS;
    let drawn = panels.iter().enumerate();
    let body: String =
        drawn.map(|(index, one)| panel(one, &outcome.series, MARGIN + index as f64 * width, width)).collect();
    let label = format!("{} over time: throughput, latency and memory", outcome.name);
    document(HEIGHT, &label, &body)
}

fn panel(panel: &Panel, series: &[Sample], left: f64, width: f64) -> String {
    let mut drawn = text(left + 6.0, 24.0, "strong", &cut(panel.title, TITLE_CHARACTERS));
    if series.is_empty() {
        drawn.push_str(&text(left + width / 2.0, HEIGHT / 2.0, "muted middle", "no samples"));
        return drawn;
    }
    let lines: Vec<Vec<(f64, f64)>> =
        panel.lines.iter().map(|(_, of)| series.iter().map(|sample| (sample.at_s, of(sample))).collect()).collect();
    let chart = Chart {
        frame: Frame { left: left + LABELS_WIDTH, top: 44.0, width: width - LABELS_WIDTH - 22.0, height: 124.0 },
        x: Axis::exact(series.iter().map(|sample| sample.at_s), 5.0),
        y: Axis::rounded(lines.iter().flatten().map(|point| point.1), 4.0),
    };
    drawn.push_str(&chart.grid());
    for (index, line) in lines.iter().enumerate() {
        drawn.push_str(&chart.line(line, &colour(index)));
    }
    if panel.lines.len() > 1 {
        drawn.push_str(&legend(panel, left + width - 22.0));
    }
    let middle = chart.frame.left + chart.frame.width / 2.0;
    drawn.push_str(&text(middle, HEIGHT - 12.0, "small muted middle", "seconds"));
    drawn
}

fn legend(panel: &Panel, right: f64) -> String {
    const ENTRY_WIDTH: f64 = 58.0;
    let first = right - panel.lines.len() as f64 * ENTRY_WIDTH;
    let entry = |(index, (name, _)): (usize, &Line)| {
        let x = first + index as f64 * ENTRY_WIDTH;
        let class = format!("line {}", colour(index));
        stroke((x, 20.0), (x + 14.0, 20.0), &class) + &text(x + 20.0, 24.0, "small", name)
    };
    panel.lines.iter().enumerate().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::made_up;

    #[test]
    fn there_is_a_line_for_each_figure() {
        let outcome = &made_up::results().scenarios[0];
        let drawn = over_time(outcome);
        assert_eq!(drawn.matches("<polyline").count(), 4);
        assert!(drawn.contains("Throughput") && drawn.contains("latency") && drawn.contains("memory"));
    }

    #[test]
    fn no_samples_are_said_and_one_is_seen() {
        let mut outcome = made_up::results().scenarios.remove(0);
        outcome.series.truncate(1);
        assert_eq!(over_time(&outcome).matches("<circle").count(), 4);
        outcome.series.clear();
        outcome.name = "<b>".to_owned();
        let drawn = over_time(&outcome);
        assert_eq!(drawn.matches("no samples").count(), 3);
        assert!(drawn.contains("&lt;b&gt;") && !drawn.contains("<b>"));
    }

    #[test]
    fn what_is_not_a_number_is_left_out() {
        let mut outcome = made_up::results().scenarios.remove(0);
        outcome.series[3].push_ms = f64::NAN;
        outcome.series[4].push_mib_s = f64::INFINITY;
        let drawn = over_time(&outcome);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
    }
}
