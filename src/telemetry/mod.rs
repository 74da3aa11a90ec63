//! What the proxy tells of itself: metrics and logs.

pub mod control;
pub mod histogram;
pub mod logs;
pub mod metrics;
pub mod scrape;
