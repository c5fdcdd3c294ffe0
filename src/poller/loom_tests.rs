//! Models of the poller's thread and the tasks that wait.

use std::future::poll_fn;
use std::sync::LazyLock;

use super::*;
use crate::wait_state::{Until, WaitState};

/// The thread of a poller in a model: reports an exit of each process, until no process is left.
pub(super) fn run(poller: &Poller) {
    loop {
        let mut schedule = lock(&poller.schedule);
        if schedule.end_thread_if_empty() {
            break;
        }
        let far = Instant::now() + Duration::from_secs(60);
        let due = schedule.take_due(far);
        let results = due
            .into_iter()
            .map(|(key, _)| (key, Some(Outcome::Resolved)));
        let wakers = schedule.handle_results(results.collect(), far);
        drop(schedule);
        wakers.into_iter().for_each(wake);
    }
}

/// Returns a poller that starts no thread by itself. The models report exits by [`report`].
fn poller_without_run() -> Arc<Poller> {
    let poller = Poller::new();
    lock(&poller.schedule).has_thread = true;
    poller
}

fn watch(poller: &Arc<Poller>, queue: &Arc<OutcomeQueue>) -> Watch {
    static TARGET: LazyLock<Arc<Target>> = LazyLock::new(|| {
        let probe = match sys::Process::open(process::id()) {
            Ok(sys::Opened::WithEvents(process)) => process.into_probe(),
            Ok(sys::Opened::Refused(refused)) => refused.probe,
            Err(_) => unreachable!("this process exists"),
        };
        Arc::new(Target::new(Arc::new(probe), &WaitState::new(Until::Exit)))
    });
    let poller = poller.clone();
    let key = poller.add(Watched::new(&TARGET, queue, 0)).unwrap();
    Watch { poller, key }
}

/// Reports an exit as the thread does after its queries.
fn report(poller: &Poller, key: u64) {
    let mut schedule = lock(&poller.schedule);
    let wakers = schedule.handle_results(vec![(key, Some(Outcome::Resolved))], Instant::now());
    drop(schedule);
    wakers.into_iter().for_each(wake);
}

#[test]
fn an_ended_watch_is_removed_or_has_an_outcome() {
    loom::model(|| {
        let (poller, queue) = (poller_without_run(), Arc::<OutcomeQueue>::default());
        let watch = watch(&poller, &queue);
        let reporter = thread::spawn({
            let (poller, key) = (poller.clone(), watch.key);
            move || report(&poller, key)
        });
        match (poller.remove(watch.key).is_some(), queue.try_recv()) {
            (true, None) => {}
            (false, Some((0, Outcome::Resolved))) => {}
            (removed, outcome) => panic!("{removed} {}", outcome.is_some()),
        }
        reporter.join().unwrap();
        assert!(queue.try_recv().is_none());
    });
}

#[test]
fn a_watch_beside_an_ending_thread_is_reported() {
    loom::model(|| {
        let (poller, queue) = (poller_without_run(), Arc::<OutcomeQueue>::default());
        // This thread finds no process and ends, or finds the process and reports it.
        let ending = thread::spawn({
            let poller = poller.clone();
            move || run(&poller)
        });
        let watch = watch(&poller, &queue);
        loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx)));
        assert!(poller.remove(watch.key).is_none());
        ending.join().unwrap();
    });
}

#[test]
fn reports_an_exit_once() {
    loom::model(|| {
        let (poller, queue) = (poller_without_run(), Arc::<OutcomeQueue>::default());
        let watch = watch(&poller, &queue);
        let reporters = [(); 2].map(|()| {
            let (poller, key) = (poller.clone(), watch.key);
            thread::spawn(move || report(&poller, key))
        });
        let outcome = loom::future::block_on(poll_fn(|cx| queue.poll_recv(cx)));
        assert!(matches!(outcome, (0, Outcome::Resolved)));
        for reporter in reporters {
            reporter.join().unwrap();
        }
        assert!(queue.try_recv().is_none());
        drop(watch);
    });
}
