//! The format of log lines. The log always goes to stderr.

use std::fmt;
use std::io::{IsTerminal, Write as _};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, reload};

use crate::config::{Log, LogFormat};

/// The format of log lines, after `auto` is resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `<6>text`. The journal adds the time.
    Journald,
    /// Time, level and text.
    Text {
        /// Whether levels are coloured.
        colour: bool,
    },
    /// One JSON object per line.
    Json,
}

/// Chooses the style. `journal` and `terminal` say what stderr is.
pub fn style(format: LogFormat, journal: bool, terminal: bool, no_colour: bool) -> Style {
    let colour = terminal && !no_colour;
    match format {
        LogFormat::Auto if journal => Style::Journald,
        LogFormat::Auto if terminal => Style::Text { colour },
        LogFormat::Auto | LogFormat::Json => Style::Json,
        LogFormat::Journald => Style::Journald,
        LogFormat::Text => Style::Text { colour },
    }
}

/// Changes the level of the running log.
pub struct Threshold(Box<dyn Fn(EnvFilter) + Send + Sync>);

impl Threshold {
    /// Sets the level to `log.level`. Fails if it cannot be parsed.
    pub fn set(&self, log: &Log) -> anyhow::Result<()> {
        (self.0)(EnvFilter::try_new(&log.level)?);
        Ok(())
    }
}

/// Starts the log of this process. Does nothing if it has been started before.
pub fn start(log: &Log) -> anyhow::Result<Threshold> {
    let filter = EnvFilter::try_new(&log.level)?;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let style = style(log.format, stderr_is_the_journal(), std::io::stderr().is_terminal(), no_colour);
    let (filter, handle) = reload::Layer::new(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let log = tracing_subscriber::registry().with(filter);
    // The only possible failure is that a log has been started before.
    let _ = match style {
        Style::Journald => log.with(lines.event_format(Journal)).try_init(),
        Style::Text { colour } => log.with(lines.with_ansi(colour)).try_init(),
        Style::Json => log.with(lines.json().flatten_event(true)).try_init(),
    };
    // The only possible failure is that the log is gone.
    Ok(Threshold(Box::new(move |filter| drop(handle.reload(filter)))))
}

/// Prints why the process ends. For the journal, each line has the priority of an error.
pub fn last_words(text: &str) {
    let mark = if stderr_is_the_journal() { format!("<{}>", priority(Level::ERROR)) } else { String::new() };
    let mut stderr = std::io::stderr().lock();
    for line in text.lines() {
        // If stderr is gone, only the exit code is left.
        let _ = writeln!(stderr, "{mark}{line}");
    }
}

/// `JOURNAL_STREAM` is `device:inode` of the journal's socket (systemd.exec(5)). Child processes inherit it even if
/// their stderr is something else, so it counts only if it names this process's stderr.
fn stderr_is_the_journal() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let Some(stream) = std::env::var("JOURNAL_STREAM").ok() else {
        return false;
    };
    match std::fs::metadata("/proc/self/fd/2") {
        Ok(stderr) => stream == format!("{}:{}", stderr.dev(), stderr.ino()),
        Err(_) => true,
    }
}

/// Formats lines with the priorities of sd-daemon(3).
struct Journal;

impl<S, N> FormatEvent<S, N> for Journal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = String::new();
        context.format_fields(Writer::new(&mut text), event)?;
        let priority = priority(*event.metadata().level());
        // The journal ends an entry at a line break, so each line carries the priority.
        text.lines().try_for_each(|line| writeln!(writer, "<{priority}>{line}"))
    }
}

const fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[test]
    fn auto_is_the_journal_under_systemd_text_on_a_terminal_and_json_elsewhere() {
        assert_eq!(style(LogFormat::Auto, true, false, false), Style::Journald);
        assert_eq!(style(LogFormat::Auto, false, true, false), Style::Text { colour: true });
        assert_eq!(style(LogFormat::Auto, false, true, true), Style::Text { colour: false });
        assert_eq!(style(LogFormat::Auto, false, false, false), Style::Json);
        assert_eq!(style(LogFormat::Text, true, false, false), Style::Text { colour: false });
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn journal_lines_carry_a_priority_each_and_no_time() {
        let lines = Lines::default();
        let made = lines.clone();
        let log = tracing_subscriber::fmt().with_writer(move || made.clone()).with_ansi(false).event_format(Journal);
        tracing::subscriber::with_default(log.finish(), || {
            tracing::info!(slot = "shop", "following");
            tracing::error!("one\ntwo");
        });
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        insta::assert_snapshot!(text, @r#"
        <6>following slot="shop"
        <3>one
        <3>two
        "#);
    }
}
