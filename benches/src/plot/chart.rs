//! The parts that all plots are made of: the SVG document with its colours, texts, and charts of lines.

use super::axis::Axis;
use super::text::{escape, number};

/// Of every plot; what shows it scales it.
pub(super) const WIDTH: f64 = 960.0;
/// Colours of lines; with more lines than that they begin again, dashed.
pub(super) const COLOURS: usize = 6;
/// Points of one line beyond which neighbours are joined: a screen does not show more.
const POINTS_MAX: usize = 600;

/// Rules hold inside `.plot` only: in a page, a style is everybody's.
const STYLE: &str = r#"
.plot{max-width:100%;height:auto;font-variant-numeric:tabular-nums;font-size:13px;
font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
.plot text{fill:#1f2328}
.plot .paper{fill:#ffffff}
.plot .title{font-size:20px;font-weight:600}
.plot .strong{font-weight:600}
.plot .name{font-size:15px;font-weight:600}
.plot .small{font-size:12px}
.plot .muted{fill:#59636e}
.plot .end{text-anchor:end}
.plot .middle{text-anchor:middle}
.plot .grid{stroke:#e3e6ea;stroke-width:1;fill:none}
.plot .base{stroke:#9aa4ae;stroke-width:1;fill:none}
.plot .floor{stroke:#1f2328;stroke-width:2.5;fill:none}
.plot .good{fill:#1a7f37}
.plot .bad{fill:#c62030}
.plot .unsure{fill:#8a5a00}
.plot .line{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round;stroke-linecap:round}
.plot .dashed{stroke-dasharray:6 5}
.plot .solid{fill:currentColor}
.plot .c0{color:#2468b4}
.plot .c1{color:#dd7d12}
.plot .c2{color:#1c8a6a}
.plot .c3{color:#8454d0}
.plot .c4{color:#c23a86}
.plot .c5{color:#76623f}
@media (prefers-color-scheme:dark){
.plot text{fill:#e6edf3}
.plot .paper{fill:#14181d}
.plot .muted{fill:#9aa6b2}
.plot .grid{stroke:#2b323a}
.plot .base{stroke:#6b7682}
.plot .floor{stroke:#e6edf3}
.plot .good{fill:#46c05f}
.plot .bad{fill:#ff6b66}
.plot .unsure{fill:#dba72f}
.plot .c0{color:#64a8f4}
.plot .c1{color:#f2a049}
.plot .c2{color:#45c3a0}
.plot .c3{color:#b795f7}
.plot .c4{color:#f081bd}
.plot .c5{color:#c8ab78}
}
"#;

/// A whole SVG, so high; the label is for those who do not see it.
pub(super) fn document(height: f64, label: &str, body: &str) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"plot\" role=\"img\" aria-label=\"{}\" width=\"{WIDTH}\" \
         height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\">\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>\n{body}</svg>\n",
        escape(label)
    )
}

/// A text by its baseline; classes say where it is anchored.
pub(super) fn text(x: f64, y: f64, class: &str, content: &str) -> String {
    format!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", escape(content))
}

/// A line between two points.
pub(super) fn stroke(from: (f64, f64), to: (f64, f64), class: &str) -> String {
    format!("<path class=\"{class}\" d=\"M{:.1} {:.1}L{:.1} {:.1}\"/>\n", from.0, from.1, to.0, to.1)
}

/// The classes of the line with this index.
pub(super) fn colour(index: usize) -> String {
    let dashed = if index / COLOURS % 2 == 1 { " dashed" } else { "" };
    format!("c{}{dashed}", index % COLOURS)
}

/// Where the lines of a chart are drawn; its labels are outside.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame {
    /// Its left edge.
    pub(super) left: f64,
    /// Its upper edge.
    pub(super) top: f64,
    /// To its right edge.
    pub(super) width: f64,
    /// To its lower edge.
    pub(super) height: f64,
}

/// A frame with its axes.
#[derive(Clone, Debug)]
pub(super) struct Chart {
    /// Where it is.
    pub(super) frame: Frame,
    /// From left to right.
    pub(super) x: Axis,
    /// From below to above.
    pub(super) y: Axis,
}

impl Chart {
    /// The ticks of both axes.
    pub(super) fn grid(&self) -> String {
        let Frame { left, top, width, height } = self.frame;
        let (right, bottom) = (left + width, top + height);
        let mut grid = String::new();
        for (value, label) in self.y.ticks() {
            let Some(share) = self.y.share(*value) else { continue };
            let y = bottom - share * height;
            grid.push_str(&stroke((left, y), (right, y), if *value == 0.0 { "base" } else { "grid" }));
            grid.push_str(&text(left - 8.0, y + 4.0, "small muted end", label));
        }
        for (value, label) in self.x.ticks() {
            let Some(share) = self.x.share(*value) else { continue };
            let x = left + share * width;
            grid.push_str(&stroke((x, bottom), (x, bottom + 4.0), "base"));
            grid.push_str(&text(x, bottom + 18.0, "small muted middle", label));
        }
        grid
    }

    /// The points joined; a point alone is a dot, for a line of no length is not seen.
    pub(super) fn line(&self, points: &[(f64, f64)], class: &str) -> String {
        let places: Vec<(f64, f64)> = thinned(points).into_iter().filter_map(|point| self.place(point)).collect();
        if places.len() < 2 {
            return self.dots(points, class);
        }
        let path: Vec<String> = places.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        format!("<polyline class=\"line {class}\" points=\"{}\"/>\n", path.join(" "))
    }

    /// A dot at each point, with its figures for a pointer that rests on it.
    pub(super) fn dots(&self, points: &[(f64, f64)], class: &str) -> String {
        let dot = |point: &(f64, f64)| {
            let (x, y) = self.place(*point)?;
            let title = format!("{}: {}", number(point.0), number(point.1));
            Some(format!(
                "<circle class=\"solid {class}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\">\
                 <title>{title}</title></circle>\n"
            ))
        };
        points.iter().filter_map(dot).collect()
    }

    fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        let Frame { left, top, width, height } = self.frame;
        Some((left + self.x.share(x)? * width, top + height - self.y.share(y)? * height))
    }
}

/// Of neighbours, the lowest and the highest: means would hide what a long line is looked at for.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS_MAX {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(POINTS_MAX);
    for group in points.chunks(points.len().div_ceil(POINTS_MAX / 2)) {
        let indices = 0..group.len();
        let order = |one: &usize, other: &usize| group[*one].1.total_cmp(&group[*other].1);
        let lowest = indices.clone().min_by(order).unwrap_or(0);
        let highest = indices.max_by(order).unwrap_or(0);
        kept.push(group[lowest.min(highest)]);
        if lowest != highest {
            kept.push(group[lowest.max(highest)]);
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart() -> Chart {
        let frame = Frame { left: 10.0, top: 10.0, width: 100.0, height: 50.0 };
        Chart { frame, x: Axis::exact([10.0].into_iter(), 2.0), y: Axis::exact([5.0].into_iter(), 2.0) }
    }

    #[test]
    fn larger_values_are_further_right_and_higher() {
        assert!(chart().line(&[(0.0, 0.0), (10.0, 5.0)], "c0").contains("points=\"10.0,60.0 110.0,10.0\""));
    }

    #[test]
    fn no_point_draws_nothing_and_one_is_a_dot() {
        assert_eq!(chart().line(&[], "c0"), "");
        assert!(chart().line(&[(5.0, 1.0)], "c0").starts_with("<circle"));
        assert_eq!(chart().line(&[(f64::NAN, 1.0), (1.0, f64::INFINITY)], "c0"), "");
    }

    #[test]
    fn a_long_line_keeps_its_peak() {
        let mut points: Vec<(f64, f64)> = (0..10_000).map(|at| (f64::from(at), 1.0)).collect();
        points[4321].1 = 99.0;
        let kept = thinned(&points);
        assert!(kept.len() <= POINTS_MAX, "{}", kept.len());
        assert!(kept.contains(&(4321.0, 99.0)));
        assert!(kept.is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn colours_begin_again_dashed() {
        assert_eq!(colour(1), "c1");
        assert_eq!(colour(COLOURS), "c0 dashed");
    }

    #[test]
    fn a_label_is_escaped() {
        assert!(document(10.0, "a \"b\" <c>", "").contains("aria-label=\"a &quot;b&quot; &lt;c&gt;\""));
    }
}
