//! Reads one number from a process's metrics, over HTTP.

use std::net::SocketAddr;
use std::time::Duration;

use mallorn_runtime::clock;
use mallorn_runtime::net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const WITHIN: Duration = Duration::from_secs(5);
/// Most that is read of an answer.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The sum of a metric over its labels; 0 where it is not there, or nobody answers.
pub(crate) async fn sum(admin: SocketAddr, name: &str) -> f64 {
    let text = clock::timeout(WITHIN, get(admin)).await.ok().and_then(Result::ok).unwrap_or_default();
    sum_in(&text, name)
}

async fn get(admin: SocketAddr) -> std::io::Result<String> {
    let mut stream = Stream::connect(&admin.to_string(), WITHIN).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n").await?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn sum_in(text: &str, name: &str) -> f64 {
    let value = |line: &str| {
        let rest = line.strip_prefix(name)?;
        if !rest.starts_with(['{', ' ']) {
            return None;
        }
        rest.rsplit_once(' ')?.1.trim().parse::<f64>().ok()
    };
    text.lines().filter_map(value).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_its_labels_and_not_over_longer_names() {
        let text = "# HELP a_total x\na_total{b=\"c d\"} 2\na_total{b=\"e\"} 3\na_total_more 7\nplain 4\n";
        assert_eq!((sum_in(text, "a_total"), sum_in(text, "plain"), sum_in(text, "none")), (5.0, 4.0, 0.0));
    }
}
