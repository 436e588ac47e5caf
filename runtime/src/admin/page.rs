//! Reads a process's metrics as its admin port shows them: for programs that watch others.
//!
//! Owns the request, its bounds, and the sums. Does not own what is done with them.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::clock;
use crate::net::Stream;

/// Most that is read of an answer.
const ANSWER_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// A page of metrics.
#[derive(Clone, Debug)]
pub struct Page(String);

impl Page {
    /// The present one; `None` where nobody answers within that time.
    pub async fn of(admin: SocketAddr, within: Duration) -> Option<Self> {
        clock::timeout(within, get(admin, within)).await.ok()?.ok().map(Self)
    }

    /// The sum of a metric over all its labels, or over those with this text in them, such as `state="lost"`; 0 where it is
    /// not there.
    #[must_use]
    pub fn sum(&self, name: &str, label: &str) -> f64 {
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            if !rest.starts_with(['{', ' ']) || !rest.contains(label) {
                return None;
            }
            rest.rsplit_once(' ')?.1.trim().parse::<f64>().ok()
        };
        self.0.lines().filter_map(value).sum()
    }
}

async fn get(admin: SocketAddr, within: Duration) -> std::io::Result<String> {
    let mut stream = Stream::connect(&admin.to_string(), within).await?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await?;
    let mut text = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_metric_is_summed_over_the_labels_asked_for_and_not_over_longer_names() {
        let page = Page("# HELP a x\na{b=\"c d\"} 2\na{b=\"e\"} 3\na_more 7\nplain 4\n".to_owned());
        let sums = [page.sum("a", ""), page.sum("a", "b=\"e\""), page.sum("plain", ""), page.sum("none", "")];
        assert_eq!(sums, [5.0, 3.0, 4.0, 0.0]);
    }
}
