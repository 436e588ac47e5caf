//! All scenarios in one picture: what a GiB costs, against the floor and against the budgets.

use super::axis::Axis;
use super::chart::{WIDTH, document, stroke, text};
use super::text::{counted, cut, escape, hundredths, number, verdict, with_interval};
use crate::outcome::{Budget, Cpu, Outcome, Results};

const LEFT: f64 = 24.0;
const BARS_LEFT: f64 = 76.0;
const BARS_RIGHT: f64 = 604.0;
const SUM_RIGHT: f64 = 672.0;
const RATIO_LEFT: f64 = 688.0;
const HEAD: f64 = 140.0;
const NAME_HEIGHT: f64 = 30.0;
const BAR_HEIGHT: f64 = 16.0;
const BAR_STEP: f64 = 24.0;
const BUDGET_HEIGHT: f64 = 19.0;
const GAP: f64 = 18.0;
/// Characters that a line of this width holds, with some to spare.
const LINE_CHARACTERS: usize = 124;
/// Narrower differences are not seen.
const BAR_MIN: f64 = 0.5;

/// What is known of one direction of a scenario.
struct Bar {
    name: &'static str,
    cpu: Cpu,
    floor: Option<f64>,
    ratio: String,
}

/// CPU-s/GiB of every scenario, with the ratio to the floor and the verdicts of the budgets: a whole SVG file.
pub(crate) fn overview(results: &Results) -> String {
    let bars = results.scenarios.iter().flat_map(bars);
    let costs: Vec<f64> = bars.flat_map(|bar| [bar.cpu.client + bar.cpu.worker, bar.floor.unwrap_or(0.0)]).collect();
    let axis = Axis::rounded(costs.into_iter(), 6.0);
    let mut body = head(results);
    let mut top = HEAD;
    if results.scenarios.is_empty() {
        body.push_str(&text(LEFT, top, "muted", "No scenario was run."));
        top += NAME_HEIGHT;
    } else {
        body.push_str(&scale(&axis));
    }
    for outcome in &results.scenarios {
        body.push_str(&scenario(outcome, top, &axis));
        top += NAME_HEIGHT + 2.0 * BAR_STEP + outcome.budgets.len() as f64 * BUDGET_HEIGHT + GAP;
    }
    document(top, "CPU seconds per GiB of every scenario", &body)
}

fn head(results: &Results) -> String {
    let machine = &results.machine;
    let cores = counted(machine.cores, "core");
    let load = hundredths(machine.load);
    let machine = format!("{}, {cores}, kernel {}, load {load} before", machine.cpu, machine.kernel);
    let runs = counted(results.runs as usize, "run");
    let title = format!("Mallorn {}: CPU seconds per GiB", results.version);
    let mut head = text(LEFT, 38.0, "title", &cut(&title, 80));
    head.push_str(&text(LEFT, 62.0, "muted", &cut(&machine, LINE_CHARACTERS)));
    head.push_str(&text(LEFT, 82.0, "muted", &format!("Median of {runs}, intervals of 90 %, seed {}", results.seed)));
    for (x, class, label) in [(BARS_LEFT, "c0", "client"), (BARS_LEFT + 80.0, "c1", "worker")] {
        head.push_str(&rectangle((x, 98.0), (12.0, 12.0), class));
        head.push_str(&text(x + 18.0, 108.0, "small", label));
    }
    let x = BARS_LEFT + 166.0;
    head.push_str(&stroke((x, 96.0), (x, 112.0), "floor"));
    head.push_str(&text(x + 10.0, 108.0, "small", "floor, both together"));
    head.push_str(&text(SUM_RIGHT, 108.0, "small muted end", "sum"));
    head.push_str(&text(RATIO_LEFT, 108.0, "small muted", "ratio (interval)"));
    head
}

fn scale(axis: &Axis) -> String {
    let label =
        |(value, label): &(f64, String)| Some(text(across(axis, *value)?, HEAD - 8.0, "small muted middle", label));
    axis.ticks().iter().filter_map(label).collect()
}

fn scenario(outcome: &Outcome, top: f64, axis: &Axis) -> String {
    let mut drawn = stroke((LEFT, top), (WIDTH - LEFT, top), "grid");
    drawn.push_str(&name(outcome, top + 21.0));
    let bars_top = top + NAME_HEIGHT;
    let bars_bottom = bars_top + 2.0 * BAR_STEP - (BAR_STEP - BAR_HEIGHT);
    for (value, _) in axis.ticks() {
        let Some(x) = across(axis, *value) else { continue };
        let class = if *value == 0.0 { "base" } else { "grid" };
        drawn.push_str(&stroke((x, bars_top - 2.0), (x, bars_bottom + 2.0), class));
    }
    for (index, bar) in bars(outcome).iter().enumerate() {
        drawn.push_str(&stacked(bar, bars_top + index as f64 * BAR_STEP, axis));
    }
    for (index, budget) in outcome.budgets.iter().enumerate() {
        let y = bars_bottom + 19.0 + index as f64 * BUDGET_HEIGHT;
        drawn.push_str(&budget_line(budget, y));
    }
    drawn
}

fn name(outcome: &Outcome, y: f64) -> String {
    let name = cut(&outcome.name, 40);
    let warning = if outcome.verified { "" } else { "not verified" };
    // A bold name takes more room than what follows it.
    let rest = LINE_CHARACTERS.saturating_sub(name.chars().count() * 4 / 3 + warning.len() + 4);
    let shows = cut(&outcome.shows, rest);
    let (name, shows) = (escape(&name), escape(&shows));
    let mut line = format!(
        "<text x=\"{LEFT}\" y=\"{y}\"><tspan class=\"name\">{name}</tspan>\
         <tspan class=\"muted\" dx=\"12\">{shows}</tspan></text>\n"
    );
    if !warning.is_empty() {
        line.push_str(&text(WIDTH - LEFT, y, "strong bad end", warning));
    }
    line
}

fn bars(outcome: &Outcome) -> [Bar; 2] {
    let floor = outcome.floor.as_ref();
    let push = match (floor, &outcome.one_copy) {
        (Some(floor), _) => times(floor.push_ratio, "floor", floor.push_interval),
        (None, Some(one)) => times(one.push.median, "one copy", [one.push.low, one.push.high]),
        (None, None) => String::new(),
    };
    let fetch = floor.map(|floor| times(floor.fetch_ratio, "floor", floor.fetch_interval)).unwrap_or_default();
    let push_floor = floor.map(|floor| floor.push_cpu_s_per_gib);
    let fetch_floor = floor.map(|floor| floor.fetch_cpu_s_per_gib);
    [
        Bar { name: "push", cpu: outcome.push.cpu_s_per_gib, floor: push_floor, ratio: push },
        Bar { name: "fetch", cpu: outcome.fetch.cpu_s_per_gib, floor: fetch_floor, ratio: fetch },
    ]
}

fn times(ratio: f64, of: &str, [low, high]: [f64; 2]) -> String {
    format!("{} × {of} ({} to {})", hundredths(ratio), hundredths(low), hundredths(high))
}

fn stacked(bar: &Bar, top: f64, axis: &Axis) -> String {
    let Cpu { client, worker, sum } = bar.cpu;
    let baseline = top + 12.5;
    let mut drawn = text(LEFT, baseline, "", bar.name);
    let start = across(axis, 0.0).unwrap_or(BARS_LEFT);
    let middle = across(axis, client).unwrap_or(start);
    let end = across(axis, client + worker).unwrap_or(middle);
    let title = format!("client {}, worker {}", number(client), number(worker));
    drawn.push_str(&format!("<g><title>{title} CPU-s/GiB</title>\n"));
    for (from, to, class) in [(start, middle, "c0"), (middle, end, "c1")] {
        if to - from >= BAR_MIN {
            drawn.push_str(&rectangle((from, top), (to - from, BAR_HEIGHT), class));
        }
    }
    drawn.push_str("</g>\n");
    if let Some(x) = bar.floor.and_then(|floor| across(axis, floor)) {
        drawn.push_str(&stroke((x, top - 2.0), (x, top + BAR_HEIGHT + 2.0), "floor"));
    }
    drawn.push_str(&text(SUM_RIGHT, baseline, "strong end", &number(sum)));
    drawn.push_str(&text(RATIO_LEFT, baseline, "", &bar.ratio));
    drawn
}

fn budget_line(budget: &Budget, y: f64) -> String {
    let (class, word) = verdict(budget.verdict);
    let rest =
        format!("{}: {}, at most {}", budget.what, with_interval(budget.value, budget.interval), number(budget.limit));
    format!(
        "<circle class=\"{class}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"4\"/>\n<text class=\"small\" x=\"{:.1}\" y=\"{y:.1}\">\
         <tspan class=\"strong {class}\">{} {word}</tspan><tspan class=\"muted\" dx=\"8\">{}</tspan></text>\n",
        BARS_LEFT + 4.0,
        y - 4.0,
        BARS_LEFT + 16.0,
        escape(&budget.name),
        escape(&cut(&rest, LINE_CHARACTERS - 10))
    )
}

fn rectangle((left, top): (f64, f64), (width, height): (f64, f64), class: &str) -> String {
    format!(
        "<rect class=\"solid {class}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>\n"
    )
}

fn across(axis: &Axis, value: f64) -> Option<f64> {
    Some(BARS_LEFT + axis.share(value)? * (BARS_RIGHT - BARS_LEFT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Verdict;
    use crate::plot::made_up;

    #[test]
    fn every_scenario_is_there_with_its_ratio_and_verdicts() {
        let drawn = overview(&made_up::results());
        for expected in
            ["plain", "1.31 × floor (1.25 to 1.38)", "G1 met", "Mallorn 1.2.3", "Median of 5 runs", "4 cores"]
        {
            assert!(drawn.contains(expected), "{expected} is not in {drawn}");
        }
        assert!(!drawn.contains("not verified"));
        assert_eq!(drawn.matches("class=\"floor\"").count(), 3, "one in the legend and one for each direction");
    }

    #[test]
    fn what_is_missed_unclear_or_not_verified_is_said() {
        let mut results = made_up::results();
        results.scenarios[0].verified = false;
        results.scenarios[0].budgets[0].verdict = Verdict::Missed;
        results.scenarios[0].budgets[1].verdict = Verdict::Unclear;
        let drawn = overview(&results);
        for expected in ["not verified", "G1 missed", "G2 unclear"] {
            assert!(drawn.contains(expected), "{expected} is not in {drawn}");
        }
    }

    #[test]
    fn names_are_escaped() {
        let mut results = made_up::results();
        results.scenarios[0].name = "<script>".to_owned();
        results.scenarios[0].budgets[0].what = "a & b".to_owned();
        results.machine.cpu = "\"fast\"".to_owned();
        let drawn = overview(&results);
        assert!(!drawn.contains("<script"));
        assert!(drawn.contains("&lt;script&gt;") && drawn.contains("a &amp; b") && drawn.contains("&quot;fast&quot;"));
    }

    #[test]
    fn nothing_and_no_numbers_are_drawn_without_any() {
        let mut results = made_up::results();
        for outcome in &mut results.scenarios {
            outcome.push.cpu_s_per_gib = Cpu { client: f64::NAN, worker: 0.0, sum: f64::NAN };
            outcome.fetch.cpu_s_per_gib = Cpu { client: 0.0, worker: 0.0, sum: 0.0 };
        }
        let drawn = overview(&results);
        assert!(!drawn.contains("NaN") && !drawn.contains("inf"));
        results.scenarios.clear();
        assert!(overview(&results).contains("No scenario was run."));
    }
}
