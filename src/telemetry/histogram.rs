//! Latency histograms: one writing thread each, summed when scraped.
//!
//! Invariant: an observation is one search among the bounds and two relaxed stores; what is observed
//! is sampled (see the families' HELP), so that no command pays for a clock.

use prometheus::proto::{Bucket, Histogram as Proto, Metric, MetricFamily, MetricType};

use super::metrics::Cell;

/// Upper bounds of the buckets (µs); one more has no bound.
pub const BOUNDS_US: [u64; 18] = [
    10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000,
    500_000, 1_000_000, 2_500_000, 5_000_000,
];

/// Counts by bucket, and the sum.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [Cell; BOUNDS_US.len() + 1],
    sum_us: Cell,
}

impl Histogram {
    /// Counts one duration (µs).
    pub fn observe(&self, us: u64) {
        let bucket = BOUNDS_US.partition_point(|&bound| bound < us);
        if let Some(cell) = self.buckets.get(bucket) {
            cell.inc();
        }
        self.sum_us.add(us);
    }
}

/// One family of the histograms of all threads together.
pub fn family<'a>(
    name: &str,
    help: &str,
    all: impl Iterator<Item = &'a Histogram> + Clone,
) -> MetricFamily {
    let mut proto = Proto::default();
    let mut below = 0;
    let mut buckets = Vec::with_capacity(BOUNDS_US.len());
    for (i, &bound) in BOUNDS_US.iter().enumerate() {
        below += all.clone().map(|h| h.buckets[i].get()).sum::<u64>();
        let mut bucket = Bucket::default();
        bucket.set_upper_bound(bound as f64 / 1e6);
        bucket.set_cumulative_count(below);
        buckets.push(bucket);
    }
    proto.set_bucket(buckets);
    let beyond: u64 = all.clone().map(|h| h.buckets[BOUNDS_US.len()].get()).sum();
    proto.set_sample_count(below + beyond);
    proto.set_sample_sum(all.map(|h| h.sum_us.get()).sum::<u64>() as f64 / 1e6);
    let mut metric = Metric::default();
    metric.set_histogram(proto);
    let mut family = MetricFamily::default();
    family.set_name(name.to_owned());
    family.set_help(help.to_owned());
    family.set_field_type(MetricType::HISTOGRAM);
    family.set_metric(vec![metric]);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_over_all_threads() {
        let (a, b) = (Histogram::default(), Histogram::default());
        for us in [5, 10, 11, 700] {
            a.observe(us);
        }
        b.observe(60_000_000);
        let family = family("x_seconds", "Help.", [&a, &b].into_iter());
        let h = family.get_metric()[0].get_histogram();
        let count = |bound: f64| {
            let bucket = h.get_bucket().iter().find(|b| (b.upper_bound() - bound).abs() < 1e-9);
            bucket.map(Bucket::cumulative_count)
        };
        assert_eq!((count(1e-5), count(2.5e-5), count(1e-3)), (Some(2), Some(3), Some(4)));
        assert_eq!((h.get_sample_count(), count(5.0)), (5, Some(4)));
        assert!((h.get_sample_sum() - 60.000_726).abs() < 1e-6);
    }
}
