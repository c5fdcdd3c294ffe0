//! Promise: the feature `tracing` logs the mechanism of each wait, and the reason for polling.

#![cfg(feature = "tracing")]

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio_process_exit::{ExitSet, Mechanism, exit_of};
use tracing_subscriber::filter::LevelFilter;

/// Returns the log lines that `body` emits.
fn log_of(body: impl FnOnce()) -> String {
    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let text = Text::default();
    let writer = text.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::DEBUG)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, body);
    let bytes = text.0.lock().unwrap().clone();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn process_logs_its_mechanism_and_fallback_reason() {
    let pid = std::process::id();
    let mut expected = Vec::new();
    let log = log_of(|| {
        let process = exit_of(pid);
        expected.push(format!(
            "pid={pid} mechanism={:?}",
            process.mechanism().unwrap()
        ));
        expected.extend(
            process
                .fallback_reason()
                .map(|reason| format!("reason={reason}")),
        );
    });
    for expected in expected {
        assert!(log.contains(&expected), "{expected} in {log}");
    }
    assert!(log.contains(" DEBUG tokio_process_exit"), "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}

#[test]
fn set_logs_the_mechanism_and_fallback_reason() {
    let pid = std::process::id();
    let mut polled = 0;
    let log = log_of(|| {
        let mut set = ExitSet::new();
        set.insert(pid).unwrap();
        polled = set.polled_len();
    });
    let is_polled = log.contains(&format!("pid={pid} mechanism={:?}", Mechanism::Polling));
    assert_eq!(is_polled, polled == 1, "{log}");
    assert_eq!(log.contains("reason="), polled == 1, "{log}");
    assert_eq!(log.lines().count(), 1, "{log}");
}
