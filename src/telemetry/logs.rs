//! Log lines: text for people, or JSON for Cloud Logging.
//!
//! Errors go to stderr, everything else to stdout. Invariant: a log line never ends the process: a
//! closed pipe on the other side is ignored. It rotates nothing and samples nothing.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::SystemTime;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;

use crate::error::Error;

/// The crate whose targets may log at debug level.
const OWN_TARGET: &str = "memorystore_auth_proxy";

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line with `severity`, `message`, `time`, as Cloud Logging reads it.
    CloudLogging,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Verbosity {
    /// Errors only.
    Quiet,
    /// Info and above.
    #[default]
    Normal,
    /// Debug and above for this crate.
    Debug,
}

/// What to log and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LogConfig {
    /// Text or JSON.
    pub format: Format,
    /// Which levels.
    pub verbosity: Verbosity,
}

impl LogConfig {
    fn filter(self) -> Targets {
        let (own, others) = match self.verbosity {
            Verbosity::Quiet => (LevelFilter::ERROR, LevelFilter::ERROR),
            Verbosity::Normal => (LevelFilter::INFO, LevelFilter::WARN),
            Verbosity::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        };
        Targets::new()
            .with_default(others)
            .with_target(OWN_TARGET, own)
    }
}

/// Starts logging for the whole process.
///
/// # Errors
/// [`Error::Runtime`] when logging was started before.
pub fn init(config: LogConfig) -> Result<(), Error> {
    tracing::subscriber::set_global_default(subscriber(config, StdStreams))
        .map_err(|error| Error::runtime("logging was started twice in one process", error))
}

/// The subscriber behind [`init`], with a writer of the caller's choice.
pub fn subscriber<W>(config: LogConfig, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    // One of the two is None, which is a layer that does nothing.
    let (text, json) = match config.format {
        Format::Text => {
            let ansi = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            let layer = tracing_subscriber::fmt::layer()
                .with_ansi(ansi)
                .with_target(false)
                .log_internal_errors(false)
                .with_writer(writer);
            (Some(layer), None)
        }
        Format::CloudLogging => (None, Some(CloudLogging { writer })),
    };
    tracing_subscriber::registry()
        .with(config.filter())
        .with(text)
        .with(json)
}

/// Errors to stderr, the rest to stdout.
#[derive(Debug, Clone, Copy)]
struct StdStreams;

impl<'a> MakeWriter<'a> for StdStreams {
    type Writer = Box<dyn io::Write>;

    fn make_writer(&'a self) -> Self::Writer {
        Box::new(io::stdout())
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Self::Writer {
        if *meta.level() == Level::ERROR {
            Box::new(io::stderr())
        } else {
            Box::new(io::stdout())
        }
    }
}

/// One JSON object a line; fields of the event and of its spans stand at the top level.
struct CloudLogging<W> {
    writer: W,
}

/// Fields of a span, kept with it until it closes.
struct SpanFields(Map<String, Value>);

impl<S, W> Layer<S> for CloudLogging<W>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'a> MakeWriter<'a> + 'static,
{
    fn on_new_span(&self, attrs: &span::Attributes<'_>, id: &span::Id, ctx: Context<'_, S>) {
        let mut fields = Map::new();
        attrs.record(&mut Flatten(&mut fields));
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(SpanFields(fields)) = span.extensions_mut().get_mut()
        {
            values.record(&mut Flatten(fields));
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut line = Map::new();
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(SpanFields(fields)) = span.extensions().get() {
                for (name, value) in fields {
                    // Inner spans come first and win.
                    line.entry(name).or_insert_with(|| value.clone());
                }
            }
        }
        event.record(&mut Flatten(&mut line));
        line.entry("message").or_insert_with(|| "".into());
        line.insert("severity".into(), severity(event.metadata().level()).into());
        let time = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        line.insert("time".into(), time.into());

        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        let _ = self
            .writer
            .make_writer_for(event.metadata())
            .write_all(&bytes);
    }
}

/// Cloud Logging's word for a level (it has none for trace).
fn severity(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "ERROR",
        Level::WARN => "WARNING",
        Level::INFO => "INFO",
        _ => "DEBUG",
    }
}

/// Writes fields into a JSON object as what they are.
struct Flatten<'a>(&'a mut Map<String, Value>);

impl Flatten<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        let name = match field.name() {
            reserved @ ("severity" | "time") => format!("field_{reserved}"),
            name => name.to_owned(),
        };
        self.0.insert(name, value);
    }
}

impl Visit for Flatten<'_> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Remembers which level wrote what.
    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Sink {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(buf);
            Ok(buf.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(config: LogConfig, body: impl FnOnce()) -> String {
        let sink = Sink::default();
        let writer = sink.clone();
        let subscriber = subscriber(config, move || writer.clone());
        tracing::subscriber::with_default(subscriber, body);
        let bytes = sink.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    fn config(format: Format, verbosity: Verbosity) -> LogConfig {
        LogConfig { format, verbosity }
    }

    fn all_levels() {
        tracing::debug!("d-line");
        tracing::info!("i-line");
        tracing::warn!("w-line");
        tracing::error!("e-line");
        tracing::info!(target: "hyper", "foreign-info");
        tracing::warn!(target: "hyper", "foreign-warn");
    }

    #[test]
    fn verbosity_chooses_lines() {
        for (verbosity, want) in [
            (Verbosity::Quiet, "e-line"),
            (Verbosity::Normal, "i-line w-line e-line foreign-warn"),
            (Verbosity::Debug, "d-line i-line w-line e-line foreign-warn"),
        ] {
            let text = logged(config(Format::Text, verbosity), all_levels);
            let got: Vec<_> = text
                .split_whitespace()
                .filter(|w| w.contains("-line") || w.contains("foreign"))
                .collect();
            assert_eq!(got.join(" "), want, "{verbosity:?}");
        }
    }

    #[test]
    fn json_has_what_cloud_logging_reads() {
        let text = logged(config(Format::CloudLogging, Verbosity::Debug), || {
            let span = tracing::info_span!("s", node = "10.0.0.1:6379", n = tracing::field::Empty);
            span.record("n", 7);
            let _inside = span.enter();
            tracing::warn!(shard = 2, ok = false, time = "x", "slow \"node\"\n{}", 1);
            tracing::debug!("d");
        });
        let lines: Vec<Map<String, Value>> = text
            .lines()
            .map(|l| serde_json::from_str(l).unwrap())
            .collect();
        assert_eq!(lines.len(), 2);
        let first = &lines[0];
        assert_eq!(first["severity"], "WARNING");
        assert_eq!(first["message"], "slow \"node\"\n1");
        assert_eq!(first["shard"], 2);
        assert_eq!(first["ok"], false);
        assert_eq!(first["node"], "10.0.0.1:6379");
        assert_eq!(first["n"], 7);
        assert_eq!(first["field_time"], "x");
        let time = first["time"].as_str().unwrap();
        assert!(humantime::parse_rfc3339(time).is_ok(), "{time}");
        assert_eq!(lines[1]["severity"], "DEBUG");
    }
}
