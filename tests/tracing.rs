//! Promise: the feature `tracing` tells how a process is waited for, and why it is polled.

#![cfg(feature = "tracing")]

mod support;

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use tokio_process_exit::{ExitSet, Mechanism, exit_of};
use tracing_subscriber::filter::LevelFilter;

/// What `body` has told.
fn told_by(body: impl FnOnce()) -> String {
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
fn a_wait_tells_its_mechanism_and_the_reason_of_a_fallback() {
    let me = std::process::id();
    let mut expected = Vec::new();
    let told = told_by(|| {
        let exit = exit_of(me);
        expected.push(format!(
            "pid={me} mechanism={:?}",
            exit.mechanism().unwrap()
        ));
        expected.extend(
            exit.fallback_reason()
                .map(|reason| format!("reason={reason}")),
        );
    });
    for expected in expected {
        assert!(told.contains(&expected), "{expected} in {told}");
    }
    assert!(told.contains(" DEBUG tokio_process_exit"), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}

#[test]
fn a_set_does_too() {
    let me = std::process::id();
    let mut polled = 0;
    let told = told_by(|| {
        let mut set = ExitSet::new();
        set.insert(me).unwrap();
        polled = set.polled_len();
    });
    let is_polled = told.contains(&format!("pid={me} mechanism={:?}", Mechanism::Polling));
    assert_eq!(is_polled, polled == 1, "{told}");
    assert_eq!(told.contains("reason="), polled == 1, "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
}
