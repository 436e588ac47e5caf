//! Figures and names as text that is safe in SVG and HTML, and short enough to read.

use crate::outcome::Verdict;

/// Stands where there is no figure.
pub(crate) const NONE: &str = "–";

const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

/// For element content and for quoted attributes.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' | '\r' => escaped.push(' '),
            // XML has no way to write these, escaped or not.
            '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            control if control.is_control() => escaped.push('\u{fffd}'),
            plain => escaped.push(plain),
        }
    }
    escaped
}

/// At most so many characters, the last one a sign that there are more: SVG does not wrap lines.
pub(crate) fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most.saturating_sub(1)).collect();
    format!("{}…", kept.trim_end())
}

/// About three digits that count.
pub(crate) fn number(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let size = value.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if size >= 99.95 {
        whole(value)
    } else if size >= 9.995 {
        format!("{value:.1}")
    } else if size >= 0.9995 {
        format!("{value:.2}")
    } else if size >= 0.0005 {
        format!("{value:.3}")
    } else {
        format!("{value:.1e}")
    }
}

/// Without decimals, in groups of three digits.
pub(crate) fn whole(value: f64) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let digits = format!("{:.0}", value.abs());
    let mut grouped = String::new();
    if value < 0.0 && digits != "0" {
        grouped.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// In the largest unit that it fills.
pub(crate) fn bytes(count: u64) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let figure = if value.fract() == 0.0 { whole(value) } else { number(value) };
    format!("{figure} {}", UNITS[unit])
}

/// So many of a thing, with an `s` where there is not exactly one.
pub(crate) fn counted(count: usize, thing: &str) -> String {
    let ending = if count == 1 { "" } else { "s" };
    format!("{} {thing}{ending}", whole(count as f64))
}

/// To two decimals: ratios lie around 1.
pub(crate) fn hundredths(value: f64) -> String {
    if value.is_finite() { format!("{value:.2}") } else { NONE.to_owned() }
}

/// A ratio with its interval; a figure that has none is any quantity.
pub(crate) fn with_interval(value: f64, interval: Option<[f64; 2]>) -> String {
    match interval {
        Some([low, high]) => format!("{} ({} to {})", hundredths(value), hundredths(low), hundredths(high)),
        None => number(value),
    }
}

/// A verdict's class of colours, and its word: colour alone does not tell everybody.
pub(crate) fn verdict(verdict: Verdict) -> (&'static str, &'static str) {
    match verdict {
        Verdict::Met => ("good", "met"),
        Verdict::Missed => ("bad", "missed"),
        Verdict::Unclear => ("unsure", "unclear"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        assert_eq!(escape("<a href=\"x\">'&'</a>"), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
        assert_eq!(escape("one\u{0}two\u{1b}\nthree\u{ffff}"), "one\u{fffd}two\u{fffd} three\u{fffd}");
        assert_eq!(escape("größer ×"), "größer ×");
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("ab", 0), "…");
    }

    #[test]
    fn figures_have_about_three_digits() {
        let texts: Vec<String> = [0.0, -0.0, 0.00012, 0.0421, 1.0, 12.34, 123.4, 1234.5].map(number).to_vec();
        assert_eq!(texts, ["0", "0", "1.2e-4", "0.042", "1.00", "12.3", "123", "1,234"]);
        assert_eq!(number(f64::NAN), NONE);
        assert_eq!(number(f64::INFINITY), NONE);
        assert_eq!(whole(-1_234_567.0), "-1,234,567");
        assert_eq!(whole(100_000.0), "100,000");
    }

    #[test]
    fn bytes_are_in_the_largest_unit() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1,023 B");
        assert_eq!(bytes(64 * 1024), "64 KiB");
        assert_eq!(bytes(3 << 29), "1.50 GiB");
        assert_eq!(bytes(u64::MAX), "16,384 PiB");
    }

    #[test]
    fn an_interval_follows_its_figure_and_nothing_is_not_a_number() {
        assert_eq!(with_interval(1.234, Some([1.1, 1.36])), "1.23 (1.10 to 1.36)");
        assert_eq!(with_interval(f64::NAN, None), NONE);
    }

    #[test]
    fn one_run_is_not_runs() {
        assert_eq!(counted(1, "run"), "1 run");
        assert_eq!(counted(0, "run"), "0 runs");
    }
}
