//! Results as one HTML page that needs nothing else: tables, verdicts and plots, for a phone as well as for a desk.

use crate::outcome::{Budget, Outcome, Phase, Results, Settings, Verdict};
use crate::plot;

const STYLE: &str = r#"
:root{color-scheme:light dark;--ink:#1f2328;--muted:#59636e;--paper:#ffffff;--box:#f6f8fa;--edge:#d8dee4;
--link:#2468b4;--good:#1a7f37;--bad:#c62030;--unsure:#8a5a00}
@media (prefers-color-scheme:dark){
:root{--ink:#e6edf3;--muted:#9aa6b2;--paper:#0d1116;--box:#14181d;--edge:#2b323a;
--link:#64a8f4;--good:#46c05f;--bad:#ff6b66;--unsure:#dba72f}
}
*{box-sizing:border-box}
body{margin:0 auto;max-width:96rem;padding:1.25rem 1rem 4rem;background:var(--paper);color:var(--ink);
font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:1.7rem;line-height:1.2;margin:.5rem 0 1rem}
h2{font-size:1.35rem;line-height:1.25;margin:2.5rem 0 .5rem;padding-top:1rem;border-top:1px solid var(--edge)}
h3{font-size:1.1rem;margin:1.75rem 0 .5rem}
p{margin:.25rem 0 .5rem}
h2,h3,p,li{overflow-wrap:anywhere}
a{color:var(--link)}
.box{overflow-x:auto;border:1px solid var(--edge);border-radius:8px;margin:.5rem 0 1rem}
.box svg{display:block;width:100%;min-width:44rem;height:auto}
.picture{max-width:70rem}
table{border-collapse:collapse;width:100%;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.4rem .7rem;text-align:right;white-space:nowrap;border-bottom:1px solid var(--edge)}
thead th{background:var(--box);font-weight:600;vertical-align:bottom}
tbody tr:last-child>*{border-bottom:0}
tbody th{text-align:left;font-weight:600;background:var(--paper)}
thead .group{text-align:center;border-left:1px solid var(--edge)}
.first{border-left:1px solid var(--edge)}
th.left,td.left{text-align:left}
.fixed{position:sticky;left:0;min-width:7rem;white-space:normal;overflow-wrap:anywhere}
.muted{color:var(--muted)}
.good{color:var(--good);font-weight:600}
.bad{color:var(--bad);font-weight:600}
.unsure{color:var(--unsure);font-weight:600}
"#;

/// All files one after the other, each under its name.
pub(crate) fn page(files: &[(String, Results)]) -> String {
    let mut body = "<h1>Mallorn benchmark</h1>\n".to_owned();
    if files.is_empty() {
        body.push_str("<p>No results were given.</p>\n");
    }
    if files.len() > 1 {
        body.push_str(&contents(files));
    }
    for (index, (name, results)) in files.iter().enumerate() {
        body.push_str(&section(index, name, results));
    }
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <title>Mallorn benchmark</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    )
}

fn contents(files: &[(String, Results)]) -> String {
    let entry = |(index, (name, results)): (usize, &(String, Results))| {
        let (name, version) = (plot::escape(name), plot::escape(&results.version));
        format!("<li><a href=\"#file-{index}\">{name}</a> <span class=\"muted\">{version}</span></li>\n")
    };
    let entries: String = files.iter().enumerate().map(entry).collect();
    format!("<ul>\n{entries}</ul>\n")
}

fn section(index: usize, name: &str, results: &Results) -> String {
    let mut section = format!("<h2 id=\"file-{index}\">{}</h2>\n", plot::escape(name));
    section.push_str(&origin(results));
    section.push_str(&summary(results));
    section.push_str(&format!("<div class=\"box picture\">{}</div>\n", plot::overview(results)));
    section.push_str("<h3>Scenarios</h3>\n");
    section.push_str(&scenarios(&results.scenarios));
    section.push_str("<h3>Budgets</h3>\n");
    section.push_str(&budgets(&results.scenarios));
    section.extend(results.scenarios.iter().map(details));
    section
}

fn origin(results: &Results) -> String {
    let machine = &results.machine;
    format!(
        "<p>Mallorn {}, {}, seed {}.<br/>{}, {}, kernel {}, load {} before.</p>\n",
        plot::escape(&results.version),
        plot::counted(results.runs as usize, "run"),
        results.seed,
        plot::escape(&machine.cpu),
        plot::counted(machine.cores, "core"),
        plot::escape(&machine.kernel),
        plot::hundredths(machine.load)
    )
}

/// What a reader looks for first: whether anything is wrong.
fn summary(results: &Results) -> String {
    let scenarios = &results.scenarios;
    let budgets = || scenarios.iter().flat_map(|outcome| &outcome.budgets);
    let mut parts = vec![plot::counted(scenarios.len(), "scenario")];
    let unverified = scenarios.iter().filter(|outcome| !outcome.verified).count();
    if unverified > 0 {
        parts.push(format!("<span class=\"bad\">{unverified} not verified</span>"));
    }
    parts.push(plot::counted(budgets().count(), "budget"));
    for verdict in [Verdict::Met, Verdict::Missed, Verdict::Unclear] {
        let count = budgets().filter(|budget| budget.verdict == verdict).count();
        let (class, word) = plot::verdict(verdict);
        if count > 0 {
            parts.push(format!("<span class=\"{class}\">{count} {word}</span>"));
        }
    }
    format!("<p>{}</p>\n", parts.join(" · "))
}

fn scenarios(scenarios: &[Outcome]) -> String {
    if scenarios.is_empty() {
        return "<p class=\"muted\">No scenario was run.</p>\n".to_owned();
    }
    let directions = ["Push", "Fetch"].map(|name| format!("<th class=\"group\" colspan=\"4\">{name}</th>"));
    let columns = "<th class=\"first\">MiB/s</th><th>CPU-s/GiB:<br/>client + worker = sum</th>\
                   <th>ms: p50 / p99 / max</th><th>× floor (interval)</th>";
    let others = ["Faults/GiB", "Peak memory<br/>ratio", "Disk", "Files", "Syncs", "Verified"];
    let others: String = others.iter().map(|name| format!("<th class=\"first\" rowspan=\"2\">{name}</th>")).collect();
    let rows: String = scenarios.iter().map(scenario).collect();
    format!(
        "<div class=\"box\"><table>\n<thead>\n\
         <tr><th class=\"left fixed\" rowspan=\"2\">Scenario</th>{}{others}</tr>\n<tr>{columns}{columns}</tr>\n\
         </thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n",
        directions.concat()
    )
}

fn scenario(outcome: &Outcome) -> String {
    let floor = outcome.floor.as_ref();
    let push_ratio = floor.map(|floor| plot::with_interval(floor.push_ratio, Some(floor.push_interval)));
    let fetch_ratio = floor.map(|floor| plot::with_interval(floor.fetch_ratio, Some(floor.fetch_interval)));
    let others = [
        plot::number(outcome.minor_faults_per_gib),
        outcome.peak_rss_ratio.map_or_else(|| plot::NONE.to_owned(), plot::hundredths),
        plot::bytes(outcome.disk.written_bytes),
        plot::whole(outcome.disk.files as f64),
        plot::whole(outcome.disk.syncs as f64),
    ];
    let others: String = others.iter().map(|figure| format!("<td class=\"first\">{figure}</td>")).collect();
    let (class, verified) = if outcome.verified { ("good", "yes") } else { ("bad", "no") };
    format!(
        "<tr><th class=\"fixed\">{}</th>{}{}{others}<td class=\"first {class}\">{verified}</td></tr>\n",
        plot::escape(&outcome.name),
        phase(&outcome.push, push_ratio),
        phase(&outcome.fetch, fetch_ratio)
    )
}

fn phase(phase: &Phase, ratio: Option<String>) -> String {
    let cpu = &phase.cpu_s_per_gib;
    let [client, worker, sum] = [cpu.client, cpu.worker, cpu.sum].map(plot::number);
    let [p50, p99, max] = [phase.p50_ms, phase.p99_ms, phase.max_ms].map(plot::number);
    let speed = plot::number(phase.mib_s);
    let ratio = ratio.unwrap_or_else(|| plot::NONE.to_owned());
    format!(
        "<td class=\"first\">{speed}</td><td>{client} + {worker} = <b>{sum}</b></td>\
         <td>{p50} / {p99} / {max}</td><td>{ratio}</td>"
    )
}

fn budgets(scenarios: &[Outcome]) -> String {
    let rows = scenarios.iter().flat_map(|outcome| outcome.budgets.iter().map(|one| budget(&outcome.name, one)));
    let rows: String = rows.collect();
    if rows.is_empty() {
        return "<p class=\"muted\">No scenario is held against a budget.</p>\n".to_owned();
    }
    format!(
        "<div class=\"box\"><table>\n<thead>\n<tr><th class=\"left fixed\">Budget</th><th class=\"left\">Verdict</th>\
         <th>Value (interval)</th><th>At most</th><th class=\"left\">What</th><th class=\"left\">Scenario</th></tr>\n\
         </thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n"
    )
}

fn budget(scenario: &str, budget: &Budget) -> String {
    let (class, word) = plot::verdict(budget.verdict);
    format!(
        "<tr><th class=\"fixed\">{}</th><td class=\"left {class}\">{word}</td><td>{}</td><td>{}</td>\
         <td class=\"left\">{}</td><td class=\"left\">{}</td></tr>\n",
        plot::escape(&budget.name),
        plot::with_interval(budget.value, budget.interval),
        plot::number(budget.limit),
        plot::escape(&budget.what),
        plot::escape(scenario)
    )
}

fn details(outcome: &Outcome) -> String {
    let mut details = format!(
        "<h3>{}</h3>\n<p>{}</p>\n<p class=\"muted\">{}</p>\n",
        plot::escape(&outcome.name),
        plot::escape(&outcome.shows),
        settings(&outcome.settings)
    );
    for note in notes(outcome) {
        details.push_str(&format!("<p class=\"muted\">{note}</p>\n"));
    }
    details.push_str(&format!("<div class=\"box picture\">{}</div>\n", plot::over_time(outcome)));
    details
}

fn settings(settings: &Settings) -> String {
    let counted = |count: u32, thing| plot::counted(count as usize, thing);
    let copies = if settings.copies == 1 { "1 copy".to_owned() } else { format!("{} copies", settings.copies) };
    format!(
        "{} in batches of {}, {}, {} with {} of memory each, {} to each worker, {copies}, durability {}, codec {}",
        plot::bytes(settings.total_bytes),
        plot::bytes(settings.batch_bytes),
        counted(settings.partitions, "partition"),
        counted(settings.workers, "worker"),
        plot::bytes(settings.memory_bytes),
        counted(settings.connections, "connection"),
        plot::escape(&settings.durability),
        plot::escape(&settings.codec)
    )
}

/// What only some scenarios have: columns for it would be empty for the others.
fn notes(outcome: &Outcome) -> Vec<String> {
    let [push, fetch] = [&outcome.push, &outcome.fetch].map(|phase| plot::number(phase.cpu_us_per_batch));
    let mut notes = vec![format!("CPU per batch: push {push} µs, fetch {fetch} µs")];
    if let Some(one_copy) = &outcome.one_copy {
        let push = one_copy.push;
        let ratio = plot::with_interval(push.median, Some([push.low, push.high]));
        notes.push(format!("CPU of pushing against one copy: {ratio}"));
    }
    if let Some(per_shuffle) = &outcome.per_shuffle {
        let [median, p99, calls] = [per_shuffle.median_ms, per_shuffle.p99_ms, per_shuffle.calls].map(plot::number);
        notes.push(format!("Per shuffle: median {median} ms, p99 {p99} ms, {calls} calls"));
    }
    if !outcome.peak_rss_bytes.is_empty() {
        let held: Vec<String> = outcome.peak_rss_bytes.iter().map(|held| plot::bytes(*held)).collect();
        notes.push(format!("Most memory of each worker: {}", held.join(", ")));
    }
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plot::made_up;

    #[test]
    fn the_page_shows_every_figure_of_a_scenario() {
        let page = page(&[("one.json".to_owned(), made_up::results())]);
        for expected in [
            "one.json",
            "Made-up CPU, 4 cores, kernel 6.1.0",
            "<td class=\"first\">1,800</td><td>0.400 + 0.200 = <b>0.600</b></td>",
            "<td>0.800 / 4.20 / 17.0</td><td>1.31 (1.25 to 1.38)</td>",
            "<td class=\"first\">1,234</td><td class=\"first\">0.87</td><td class=\"first\">1.50 GiB</td>",
            "Per shuffle: median 12.5 ms, p99 31.0 ms, 9.00 calls",
            "1 GiB in batches of 64 KiB, 200 partitions, 2 workers",
        ] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
        assert_eq!(page.matches("<svg").count(), 3, "the overview and two scenarios over time");
    }

    #[test]
    fn verdicts_are_counted_and_shown() {
        let mut results = made_up::results();
        results.scenarios[0].budgets[1].verdict = Verdict::Missed;
        results.scenarios[1].verified = false;
        let page = page(&[("one.json".to_owned(), results)]);
        for expected in [
            "2 scenarios · <span class=\"bad\">1 not verified</span> · 2 budgets",
            "<span class=\"good\">1 met</span> · <span class=\"bad\">1 missed</span>",
            "<td class=\"left bad\">missed</td>",
            "<td class=\"first bad\">no</td>",
        ] {
            assert!(page.contains(expected), "{expected} is not in {page}");
        }
    }

    #[test]
    fn nothing_of_the_results_is_markup() {
        let mut results = made_up::results();
        results.version = "<i>".to_owned();
        results.machine.kernel = "<i>".to_owned();
        for outcome in &mut results.scenarios {
            outcome.name = "<i>".to_owned();
            outcome.shows = "<i>".to_owned();
            outcome.settings.codec = "<i>".to_owned();
            outcome.budgets.iter_mut().for_each(|budget| budget.what = "<i>".to_owned());
        }
        let page = page(&[("<i>".to_owned(), results.clone()), ("\"&\"".to_owned(), results)]);
        assert!(!page.contains("<i>") && page.contains("&lt;i&gt;") && page.contains("&quot;&amp;&quot;"));
    }

    #[test]
    fn nothing_comes_from_outside() {
        let page = page(&[("one.json".to_owned(), made_up::results())]);
        let outside = page.replace("http://www.w3.org/2000/svg", "");
        for forbidden in ["http:", "https:", "<script", "<link", "@import", "url("] {
            assert!(!outside.contains(forbidden), "{forbidden}");
        }
    }

    #[test]
    fn empty_results_are_said() {
        assert!(page(&[]).contains("No results were given."));
        let mut results = made_up::results();
        results.scenarios.clear();
        let page = page(&[("one.json".to_owned(), results)]);
        assert!(page.contains("No scenario was run.") && page.contains("No scenario is held against a budget."));
    }
}
