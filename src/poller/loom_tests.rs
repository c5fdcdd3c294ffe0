//! Models of a poller's thread, its shutdown and the tasks that wait.

use std::future::poll_fn;

use super::*;
use crate::wait_state::{Until, WaitState};

fn poller() -> Arc<Poller> {
    static RUNTIME: LazyLock<runtime::Runtime> =
        LazyLock::new(|| runtime::Builder::new_current_thread().build().unwrap());
    Poller::new(RUNTIME.handle().id())
}

/// Watches a process that is never queried. The models report its exit by [`report`].
fn watch(poller: &Arc<Poller>, queue: &Arc<OutcomeQueue>) -> Option<Watch> {
    static TARGET: LazyLock<Arc<Target>> = LazyLock::new(|| {
        let probe = match sys::Process::open(std::process::id()) {
            Ok(sys::Opened::WithEvents(process)) => process.into_probe(),
            Ok(sys::Opened::Refused(refused)) => refused.probe,
            Err(_) => unreachable!("this process exists"),
        };
        Arc::new(Target::new(probe, &WaitState::new(Until::Exit)))
    });
    let poller = poller.clone();
    let key = poller.add(Watched::new(&TARGET, queue, 0))?;
    Some(Watch { poller, key })
}

/// Reports an exit as a slice does after its queries.
fn report(poller: &Poller, key: u64) {
    let mut schedule = lock(&poller.schedule);
    let wakers = schedule.handle_results(vec![(key, Queried::Resolved)], Instant::now());
    drop(schedule);
    wakers.into_iter().for_each(wake);
}

#[test]
fn an_ended_watch_is_removed_or_has_an_outcome() {
    loom::model(|| {
        let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
        let watch = watch(&poller, &queue).unwrap();
        let reporter = loom::thread::spawn({
            let (poller, key) = (poller.clone(), watch.key);
            move || report(&poller, key)
        });
        let closer = loom::thread::spawn({
            let poller = poller.clone();
            move || poller.close()
        });
        match (poller.remove(watch.key).is_some(), queue.try_recv()) {
            (true, None) => {}
            (false, Some((0, Outcome::Resolved | Outcome::PollerClosed))) => {}
            (removed, outcome) => panic!("{removed} {}", outcome.is_some()),
        }
        reporter.join().unwrap();
        closer.join().unwrap();
        assert!(queue.try_recv().is_none());
    });
}

#[test]
fn a_closing_poller_reports_or_refuses_a_watch() {
    loom::model(|| {
        let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
        let closer = loom::thread::spawn({
            let poller = poller.clone();
            move || poller.close()
        });
        if let Some(watch) = watch(&poller, &queue) {
            let outcome = loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx)));
            assert!(matches!(outcome, (0, Outcome::PollerClosed)));
            assert!(poller.remove(watch.key).is_none());
        }
        closer.join().unwrap();
    });
}

#[test]
fn reports_an_exit_once() {
    loom::model(|| {
        let (poller, queue) = (poller(), Arc::<OutcomeQueue>::default());
        let watch = watch(&poller, &queue).unwrap();
        let reporters = [(); 2].map(|()| {
            let (poller, key) = (poller.clone(), watch.key);
            loom::thread::spawn(move || report(&poller, key))
        });
        let outcome = loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx)));
        assert!(matches!(outcome, (0, Outcome::Resolved)));
        reporters.map(|reporter| reporter.join().unwrap());
        assert!(queue.try_recv().is_none());
        drop(watch);
    });
}
