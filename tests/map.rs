//! Promise: an `ExitMap` yields each exit exactly once, with the key of its process.

mod support;

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::io::{self, ErrorKind};
use std::time::Duration;

use futures::{FutureExt, Stream, StreamExt};
#[cfg(target_os = "linux")]
use support::linux;
use support::{Child, at_most, deadline, expired, many, runtimes, still_pending};
use tokio_process_exit::{Exit, ExitMap, ProcessError, exit_of};

async fn next<K: Clone + Eq + std::hash::Hash>(map: &mut ExitMap<K>) -> (K, Exit) {
    let (key, exit) = deadline(map.next_exit())
        .await
        .expect("the map is not empty");
    (key, exit.expect("the wait succeeds"))
}

fn pid_of(error: &io::Error) -> Option<u32> {
    let inner = error.get_ref()?.downcast_ref::<ProcessError>()?;
    Some(inner.pid())
}

#[test]
fn implements_the_expected_traits() {
    struct NotUnpin(#[allow(dead_code)] std::marker::PhantomPinned);
    fn is_sendable<T: Send + Sync + Debug + Default + 'static>() {}
    fn is_unpin<T: Unpin>() {}
    fn is_sent<T: Send>(_: T) {}
    is_sendable::<ExitMap<String>>();
    is_unpin::<ExitMap<NotUnpin>>();
    is_sent(async {
        let mut map = ExitMap::<String>::new();
        map.next_exit().await;
        map.exits_within(Duration::ZERO).await;
        map.stop(Duration::ZERO).await;
    });
}

#[tokio::test]
async fn empty_map_resolves_at_once() {
    let mut map = ExitMap::<u32>::with_capacity(10);
    assert!(map.is_empty());
    assert_eq!(map.keys().count(), 0);
    assert!(deadline(map.next_exit()).await.is_none());
    assert!(map.try_next_exit().is_none());
    assert!(deadline(map.exits_within(Duration::MAX)).await.is_empty());
    assert!(deadline(map.stop(Duration::MAX)).await.is_empty());
    assert!(!map.remove(&1));
    assert_eq!(map.pid(&1), None);
}

#[test]
fn yields_each_exit_with_its_key() {
    for runtime in runtimes() {
        let task = async {
            let mut map = ExitMap::new();
            let mut children: Vec<Child> = (0..10).map(Child::spawn).collect();
            for (n, child) in children.iter().enumerate() {
                map.insert(format!("worker {n}"), child.id()).unwrap();
            }
            still_pending(map.next_exit()).await;
            assert_eq!(map.len(), 10);
            for (n, child) in children.iter_mut().enumerate().rev() {
                let key = format!("worker {n}");
                assert_eq!(map.pid(&key), Some(child.id()));
                child.end();
                let (yielded, exit) = next(&mut map).await;
                assert_eq!(yielded, key);
                assert_eq!(exit.pid(), Some(child.id()));
                assert_eq!(exit.status().unwrap().code(), Some(n as i32));
                assert!(!map.contains_key(&key));
                assert_eq!(map.len(), n);
            }
            assert!(deadline(map.next_exit()).await.is_none());
        };
        runtime.block_on(task);
    }
}

#[tokio::test]
async fn insert_drops_a_wait_that_had_the_key() {
    let (mut first, mut second) = (Child::spawn(1), Child::spawn(2));
    let mut map = ExitMap::new();
    map.insert("key", first.id()).unwrap();
    still_pending(map.next_exit()).await;
    map.insert("key", second.id()).unwrap();
    assert_eq!((map.len(), map.pid(&"key")), (1, Some(second.id())));
    first.end();
    first.until_exited();
    still_pending(map.next_exit()).await;
    map.insert_exit("key", exit_of(first.id()));
    second.end();
    second.until_exited();
    assert_eq!(next(&mut map).await.1.pid(), Some(first.id()));
    assert!(map.is_empty());

    // The wait that is dropped has ended.
    map.insert("key", first.id()).unwrap();
    map.insert_exit("other", exit_of(0));
    map.insert("key", second.id()).unwrap();
    map.remove(&"other");
    assert_eq!(next(&mut map).await.1.pid(), Some(second.id()));
    assert!(deadline(map.next_exit()).await.is_none());
}

#[tokio::test]
async fn insert_of_the_same_process_yields_it_once() {
    let mut child = Child::spawn(7);
    let mut map = ExitMap::new();
    for _ in 0..3 {
        map.insert("key", child.id()).unwrap();
        map.insert_exit("key", exit_of(child.id()));
        map.insert_exit("key", exit_of(child.id()).until_reaped());
        map.insert("key", child.id()).unwrap();
    }
    assert_eq!(map.len(), 1);
    still_pending(map.next_exit()).await;
    child.end();
    assert_eq!(next(&mut map).await.1.status().unwrap().code(), Some(7));
    assert!(deadline(map.next_exit()).await.is_none());
    // A zombie can be inserted again.
    map.insert("key", child.id()).unwrap();
    assert_eq!(next(&mut map).await.0, "key");
}

#[tokio::test]
async fn failed_insert_leaves_the_map_unchanged() {
    let mut child = Child::spawn(7);
    let mut map = ExitMap::new();
    map.insert("key", child.id()).unwrap();
    for key in ["key", "other"] {
        let error = map.insert(key, i32::MAX as u32).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(pid_of(&error), Some(i32::MAX as u32));
        assert_eq!(
            map.insert(key, 0).unwrap_err().kind(),
            ErrorKind::InvalidInput
        );
    }
    assert_eq!(map.keys().collect::<Vec<_>>(), [&"key"]);
    assert_eq!(map.pid(&"key"), Some(child.id()));
    child.end();
    assert_eq!(next(&mut map).await.0, "key");
}

#[tokio::test]
async fn yields_a_process_once_for_each_of_its_keys() {
    let (mut child, mut other) = (Child::spawn(7), Child::spawn(1));
    let mut map = ExitMap::new();
    for key in 0..4 {
        map.insert(key, child.id()).unwrap();
        map.insert_exit(10 + key, exit_of(child.id()));
    }
    map.insert(100, other.id()).unwrap();
    // Removing one of the keys leaves the waits of the others.
    assert!(map.remove(&0));
    assert!(map.remove(&11));
    still_pending(map.next_exit()).await;
    child.end();
    let mut keys = HashSet::new();
    for _ in 0..6 {
        let (key, exit) = next(&mut map).await;
        assert_eq!(exit.pid(), Some(child.id()));
        assert!(keys.insert(key));
    }
    assert_eq!(keys, HashSet::from([1, 2, 3, 10, 12, 13]));
    still_pending(map.next_exit()).await;
    other.end();
    assert_eq!(next(&mut map).await.0, 100);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn recycled_pid_can_be_under_another_key() {
    let mut first = Child::spawn(1);
    let pid = first.id();
    let mut map = ExitMap::new();
    map.insert("first", pid).unwrap();
    first.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut second) = linux::recycle(pid, || Child::spawn(2), Child::id) else {
        return support::skip("pids cannot be chosen (not root)");
    };
    map.insert("second", pid).unwrap();
    assert_eq!(
        (map.pid(&"first"), map.pid(&"second")),
        (Some(pid), Some(pid))
    );
    let error = map.signal(&"first", 0).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(next(&mut map).await.0, "first");
    still_pending(map.next_exit()).await;
    second.end();
    let (key, exit) = next(&mut map).await;
    assert_eq!((key, exit.status().unwrap().code()), ("second", Some(2)));

    // Under the same key, the later process replaces the earlier one.
    let mut third = second;
    map.insert("key", pid).unwrap();
    third.reap();
    std::thread::sleep(Duration::from_millis(30));
    let Some(mut fourth) = linux::recycle(pid, || Child::spawn(4), Child::id) else {
        return support::skip("the pid was not recycled");
    };
    map.insert("key", pid).unwrap();
    still_pending(map.next_exit()).await;
    fourth.end();
    assert_eq!(next(&mut map).await.1.status().unwrap().code(), Some(4));
    assert!(map.is_empty());
}

#[tokio::test]
async fn does_not_yield_a_removed_process() {
    let mut sleepers = many(3);
    let mut map = ExitMap::new();
    for (n, sleeper) in sleepers.iter().enumerate() {
        map.insert(n, sleeper.id()).unwrap();
    }
    assert!(map.remove(&0));
    assert!(!map.remove(&0));
    still_pending(map.next_exit()).await;
    sleepers.iter_mut().for_each(support::Sleeper::kill);
    assert!(map.remove(&1));
    assert_eq!(next(&mut map).await.0, 2);
    assert!(deadline(map.next_exit()).await.is_none());
}

#[tokio::test]
async fn errors_come_with_their_key() {
    let mut child = Child::spawn(0);
    let mut map = ExitMap::new();
    map.insert("running", child.id()).unwrap();
    map.insert_exit("invalid", exit_of(u32::MAX));
    map.insert_exit("zero", exit_of(0));
    let exits = deadline(map.exits_within(Duration::ZERO)).await;
    let mut errors: HashMap<_, _> = exits
        .into_iter()
        .map(|(key, exit)| (key, exit.unwrap_err()))
        .collect();
    assert_eq!(pid_of(&errors.remove("invalid").unwrap()), Some(u32::MAX));
    assert_eq!(pid_of(&errors.remove("zero").unwrap()), None);
    assert!(errors.is_empty());
    assert_eq!(map.keys().collect::<Vec<_>>(), [&"running"]);
    child.end();
    assert_eq!(next(&mut map).await.0, "running");
}

#[tokio::test]
async fn exits_within_returns_exits_and_keeps_the_rest() {
    let mut children: Vec<Child> = (0..6).map(Child::spawn).collect();
    let mut map = ExitMap::new();
    for (n, child) in children.iter().enumerate() {
        map.insert(n, child.id()).unwrap();
    }
    assert!(deadline(map.exits_within(Duration::ZERO)).await.is_empty());
    for child in &mut children[..3] {
        child.end();
        child.until_exited();
    }
    let exits = deadline(map.exits_within(Duration::ZERO)).await;
    let keys: HashSet<usize> = exits.into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, HashSet::from([0, 1, 2]));
    assert_eq!(map.len(), 3);
    for child in &mut children[3..] {
        child.end();
    }
    let exits = deadline(map.exits_within(Duration::MAX)).await;
    for (n, exit) in &exits {
        assert_eq!(
            exit.as_ref().unwrap().status().unwrap().code(),
            Some(*n as i32)
        );
    }
    assert_eq!(exits.len(), 3);
    assert!(map.is_empty());
}

#[tokio::test]
async fn dropped_futures_lose_no_exit() {
    let mut sleepers = many(at_most(300));
    let mut map = ExitMap::new();
    for (n, sleeper) in sleepers.iter().enumerate() {
        map.insert(n, sleeper.id()).unwrap();
    }
    let mut keys = HashSet::new();
    for sleeper in &mut sleepers {
        sleeper.kill();
        // Drop futures that may have read the event. Only the last of these waits can resolve.
        let exits = map.exits_within(Duration::MAX).now_or_never();
        for (key, _) in exits.into_iter().flatten() {
            assert!(keys.insert(key));
        }
        if let Ok(Some((key, _))) = expired(map.next_exit()).await {
            assert!(keys.insert(key));
        }
        tokio::task::yield_now().await;
    }
    while let Some((key, exit)) = deadline(map.next_exit()).await {
        exit.unwrap();
        assert!(keys.insert(key));
    }
    assert_eq!(keys.len(), sleepers.len());
}

#[tokio::test]
async fn is_a_stream() {
    let mut child = Child::spawn(7);
    let mut map = ExitMap::new();
    map.insert('a', child.id()).unwrap();
    map.insert('b', child.id()).unwrap();
    assert_eq!(map.size_hint(), (2, Some(2)));
    child.end();
    let mut keys: Vec<char> = deadline(map.map(|(key, _)| key).collect()).await;
    keys.sort();
    assert_eq!(keys, ['a', 'b']);
}

#[test]
fn try_next_exit_works_outside_a_runtime() {
    let mut child = Child::spawn(7);
    let mut map = ExitMap::new();
    map.insert((1, "key"), child.id()).unwrap();
    assert!(map.try_next_exit().is_none());
    child.end();
    child.until_exited();
    let (key, exit) = map.try_next_exit().unwrap();
    assert_eq!(key, (1, "key"));
    assert_eq!(exit.unwrap().status().unwrap().code(), Some(7));
    assert!(map.try_next_exit().is_none());
}

#[tokio::test]
async fn signals_the_process_under_the_key() {
    let (first, second) = (Child::spawn(0), Child::spawn(0));
    let mut map = ExitMap::new();
    map.insert("first", first.id()).unwrap();
    map.insert("second", second.id()).unwrap();
    #[cfg(unix)]
    let kill = |map: &mut ExitMap<_>, key| map.signal(&key, libc::SIGKILL);
    #[cfg(windows)]
    let kill = |map: &mut ExitMap<_>, key| map.terminate(&key, 1);
    kill(&mut map, "second").unwrap();
    let (key, exit) = next(&mut map).await;
    assert_eq!((key, exit.pid()), ("second", Some(second.id())));
    still_pending(map.next_exit()).await;
    for key in ["second", "unknown"] {
        let error = kill(&mut map, key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    }
    kill(&mut map, "first").unwrap();
    assert_eq!(next(&mut map).await.0, "first");
}

#[cfg(unix)]
#[test]
fn runtime_shutdown_error_leaves_the_map_unchanged() {
    if support::poll_forced() {
        return support::skip("a polled wait does not depend on the runtime");
    }
    let [first, second] = runtimes();
    let mut child = Child::spawn(7);
    let mut map = ExitMap::new();
    map.insert("key", child.id()).unwrap();
    let handle = first.handle().clone();
    drop(first);
    {
        let _guard = handle.enter();
        let (key, exit) = support::poll_once(Box::pin(map.next_exit()))
            .unwrap()
            .unwrap();
        assert_eq!(key, "key");
        assert_eq!(pid_of(&exit.unwrap_err()), None);
    }
    assert!(map.contains_key(&"key"));
    child.end();
    let (key, exit) = second.block_on(next(&mut map));
    assert_eq!((key, exit.status().unwrap().code()), ("key", Some(7)));
}

/// Keys may panic in each of their methods. Then no exit is lost.
mod panics {
    use std::hash::{Hash, Hasher};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Poll, Wake, Waker};

    use super::*;

    /// Counts the calls of a key's methods. The call with this number panics.
    #[derive(Default)]
    struct Calls {
        count: AtomicUsize,
        panic_at: AtomicUsize,
    }

    impl Calls {
        fn call(&self) {
            let count = self.count.fetch_add(1, Relaxed) + 1;
            let panics = count == self.panic_at.load(Relaxed);
            // A second panic would end the program.
            assert!(!panics || std::thread::panicking(), "call {count} panics");
        }
    }

    struct Key(u32, Arc<Calls>);

    impl Clone for Key {
        fn clone(&self) -> Key {
            self.1.call();
            Key(self.0, self.1.clone())
        }
    }

    impl PartialEq for Key {
        fn eq(&self, other: &Key) -> bool {
            self.1.call();
            self.0 == other.0
        }
    }

    impl Eq for Key {}

    impl Hash for Key {
        fn hash<H: Hasher>(&self, state: &mut H) {
            self.1.call();
            self.0.hash(state);
        }
    }

    impl Drop for Key {
        fn drop(&mut self) {
            self.1.call();
        }
    }

    /// Calls `change` with a map of three processes, of which two have exited, and panics at each call of a
    /// key's method in turn.
    ///
    /// `change` removes or replaces at most the processes under the `changed` keys. At most `keyless` exits
    /// that are being yielded have lost their place among the keys.
    fn panic_at_each_call(
        changed: &[u32],
        keyless: usize,
        change: impl Fn(&mut ExitMap<Key>, &dyn Fn(u32) -> Key, &mut Vec<Key>, &[Child]),
    ) {
        let [_, multi_thread] = runtimes();
        let _guard = multi_thread.enter();
        for panic_at in 1..100 {
            let mut children: Vec<Child> = (0..3).map(Child::spawn).collect();
            let calls = Arc::<Calls>::default();
            let key = |n| Key(n, calls.clone());
            let mut map = ExitMap::new();
            for (n, child) in children.iter().enumerate() {
                map.insert(key(n as u32), child.id()).unwrap();
            }
            for child in &mut children[..2] {
                child.end();
                child.until_exited();
            }
            let panic_at_count = calls.count.load(Relaxed) + panic_at;
            calls.panic_at.store(panic_at_count, Relaxed);
            let mut yielded = Vec::new();
            let result = catch_unwind(AssertUnwindSafe(|| {
                change(&mut map, &key, &mut yielded, &children);
            }));
            calls.panic_at.store(0, Relaxed);
            assert!(
                map.keys().count() + keyless >= map.len(),
                "{panic_at}: {map:?}"
            );

            children[2].end();
            children[2].until_exited();
            while let Some((key, exit)) = map.try_next_exit() {
                exit.unwrap();
                yielded.push(key);
            }
            assert!(map.is_empty() && map.keys().count() == 0, "{panic_at}");
            let mut numbers: Vec<u32> = yielded.iter().map(|key| key.0).collect();
            numbers.sort();
            for n in 0..3 {
                let times = numbers.iter().filter(|&&number| number == n).count();
                let may_be_gone = changed.contains(&n);
                assert!(
                    times == 1 || times == 0 && may_be_gone,
                    "{panic_at}: {numbers:?}"
                );
            }
            if result.is_ok() {
                assert!(panic_at > 1, "no method of a key was called");
                return;
            }
        }
        panic!("the change fails without a panic of a key");
    }

    #[test]
    fn insert_loses_no_exit() {
        panic_at_each_call(&[], 0, |map, key, _, children| {
            map.insert(key(2), children[2].id()).unwrap();
        });
        panic_at_each_call(&[], 0, |map, key, _, _| {
            let _ = map.insert(key(2), i32::MAX as u32);
        });
        panic_at_each_call(&[2], 0, |map, key, _, children| {
            map.insert_exit(key(2), exit_of(children[2].id()));
        });
        // The key's earlier process is dropped.
        panic_at_each_call(&[0], 0, |map, key, _, children| {
            map.insert(key(0), children[2].id()).unwrap();
        });
    }

    #[test]
    fn remove_loses_no_exit_of_others() {
        for n in 0..3 {
            panic_at_each_call(&[n], 0, |map, key, _, _| {
                assert!(map.remove(&key(n)));
                assert_eq!(map.len(), 2);
            });
        }
    }

    #[test]
    fn yielding_loses_no_exit() {
        panic_at_each_call(&[], 1, |map, _, yielded, _| {
            for _ in 0..3 {
                yielded.extend(map.try_next_exit().map(|(key, _)| key));
            }
        });
        panic_at_each_call(&[], 2, |map, _, yielded, _| {
            let runtime = tokio::runtime::Handle::current();
            let exits = runtime.block_on(map.exits_within(Duration::ZERO));
            yielded.extend(exits.into_iter().map(|(key, _)| key));
        });
    }

    struct PanickingWaker;

    impl Wake for PanickingWaker {
        fn wake(self: Arc<Self>) {
            panic!("this waker panics");
        }
    }

    #[tokio::test]
    async fn waker_loses_no_insertion() {
        let mut child = Child::spawn(0);
        let mut map = ExitMap::new();
        map.insert(1, child.id()).unwrap();
        let waker = Waker::from(Arc::new(PanickingWaker));
        // The first polls may resolve: they query the process.
        let mut cx = Context::from_waker(&waker);
        while !matches!(map.poll_next_exit(&mut cx), Poll::Pending) {}
        let _ = catch_unwind(AssertUnwindSafe(|| map.insert_exit(2, exit_of(0))));
        child.end();
        child.until_exited();
        let mut keys = HashSet::new();
        while let Some((key, _)) = deadline(map.next_exit()).await {
            assert!(keys.insert(key));
        }
        assert_eq!(keys, HashSet::from([1, 2]));
    }
}

mod stop {
    use super::*;

    #[test]
    fn returns_the_exit_of_each_key() {
        for runtime in runtimes() {
            let sleepers = many(5);
            let mut zombie = Child::spawn(7);
            let mut map = ExitMap::new();
            for (n, sleeper) in sleepers.iter().enumerate() {
                map.insert(n, sleeper.id()).unwrap();
            }
            map.insert(100, zombie.id()).unwrap();
            map.insert_exit(101, exit_of(0));
            zombie.end();
            zombie.until_exited();
            let grace = match cfg!(windows) {
                true => Duration::from_millis(200),
                false => Duration::MAX,
            };
            let exits = runtime.block_on(async { deadline(map.stop(grace)).await });
            let exits: HashMap<usize, io::Result<Exit>> = exits.into_iter().collect();
            assert_eq!(exits.len(), 7);
            for (n, sleeper) in sleepers.iter().enumerate() {
                assert_eq!(exits[&n].as_ref().unwrap().pid(), Some(sleeper.id()));
            }
            let exit = exits[&100].as_ref().unwrap();
            assert_eq!(exit.status().unwrap().code(), Some(7));
            assert!(exits[&101].is_err());
            assert!(map.is_empty());
        }
    }

    /// Starts a child that SIGTERM does not end.
    fn stubborn() -> Child {
        if cfg!(windows) {
            return Child::spawn(0);
        }
        let mut command = support::shell("trap '' TERM; echo; read line");
        let mut child = Child::spawn_command(command.stdout(std::process::Stdio::piped()));
        let stdout = child.0.stdout.as_mut().unwrap();
        io::Read::read_exact(stdout, &mut [0]).expect("the shell has set its trap");
        child
    }

    #[cfg(unix)]
    #[tokio::test]
    async fn asks_a_process_with_several_keys_once() {
        use std::io::{Read, Write};
        use std::sync::atomic::{AtomicI32, Ordering};
        use support::unix::{fork, pipe};

        static COUNT: AtomicI32 = AtomicI32::new(0);
        extern "C" fn count(_signal: libc::c_int) {
            COUNT.fetch_add(1, Ordering::Relaxed);
        }
        /// Exits with the number of signals, some time after the first.
        fn count_signals(mut ready: impl Write) -> i32 {
            let handler: extern "C" fn(libc::c_int) = count;
            // SAFETY: the handler only increments a number.
            unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
            let _ = ready.write_all(b"r");
            let mut rest = 100;
            while rest > 0 {
                std::thread::sleep(Duration::from_millis(1));
                rest -= i32::from(COUNT.load(Ordering::Relaxed) > 0);
            }
            COUNT.load(Ordering::Relaxed)
        }
        let (mut is_ready, ready) = pipe();
        let children: Vec<_> = (0..10).map(|_| fork(|| count_signals(&ready))).collect();
        is_ready.read_exact(&mut [0; 10]).unwrap();
        let mut map = ExitMap::new();
        for key in 0..8 {
            for child in &children {
                map.insert((child.id(), key), child.id()).unwrap();
            }
        }
        let exits = deadline(map.stop(Duration::MAX)).await;
        assert_eq!(exits.len(), 80);
        for (key, exit) in exits {
            let status = exit.unwrap().status().unwrap();
            assert_eq!(status.code(), Some(1), "{key:?}: {status}");
        }
    }

    #[test]
    fn dropped_stop_loses_no_exit() {
        for runtime in runtimes() {
            let (mut sleepers, child) = (many(10), stubborn());
            let mut map = ExitMap::new();
            for (n, sleeper) in sleepers.iter().enumerate() {
                map.insert(n, sleeper.id()).unwrap();
            }
            map.insert(100, child.id()).unwrap();
            runtime.block_on(async {
                drop(map.stop(Duration::ZERO));
                assert_eq!(map.len(), 11);
                let mut stop = Box::pin(map.stop(Duration::MAX));
                assert!(support::poll_once(&mut stop).is_none());
                sleepers.iter_mut().for_each(support::Sleeper::kill);
                assert!(support::poll_once(&mut stop).is_none());
                drop(stop);
                let mut keys = HashSet::new();
                for _ in &sleepers {
                    let (key, exit) = next(&mut map).await;
                    assert_eq!(exit.pid(), Some(sleepers[key].id()));
                    assert!(keys.insert(key));
                }
                // The other process has not been killed. A second call starts again.
                still_pending(map.next_exit()).await;
                let exits = deadline(map.stop(Duration::from_millis(50))).await;
                let [(100, Ok(exit))] = &exits[..] else {
                    panic!("{exits:?}");
                };
                assert_eq!(exit.pid(), Some(child.id()));
            });
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn process_that_may_not_be_signalled_stays() {
        let test = "stop::process_that_may_not_be_signalled_stays";
        if support::role().is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = { runtime }.enable_all().build().unwrap();
            return runtime.block_on(async {
                let sleeper = many(1);
                let mut map = ExitMap::new();
                map.insert("init", 1).unwrap();
                map.insert("ours", sleeper[0].id()).unwrap();
                let exits = deadline(map.stop(Duration::ZERO)).await;
                let [(ours, exit), (init, error)] = &exits[..] else {
                    panic!("{exits:?}");
                };
                assert_eq!((*ours, *init), ("ours", "init"));
                assert_eq!(exit.as_ref().unwrap().pid(), Some(sleeper[0].id()));
                let error = error.as_ref().unwrap_err();
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
                assert_eq!(pid_of(error), Some(1));
                assert!(map.contains_key(&"init"));
                still_pending(map.next_exit()).await;
            });
        }
        match linux::rerun_as_nobody(test, &[]) {
            Some(output) => support::assert_passed(&output),
            None => support::skip("not root, or the user nobody cannot start this binary"),
        }
    }
}

#[cfg(target_os = "linux")]
mod model {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Insert(u8, usize),
        InsertExit(u8, usize),
        Remove(u8),
        Kill(usize),
        TryNext,
        ExitsWithin,
    }

    fn step() -> impl Strategy<Value = Step> {
        let (key, process) = (0..6_u8, 0..4_usize);
        prop_oneof![
            (key.clone(), process.clone()).prop_map(|(key, n)| Step::Insert(key, n)),
            (key.clone(), process.clone()).prop_map(|(key, n)| Step::InsertExit(key, n)),
            key.prop_map(Step::Remove),
            process.prop_map(Step::Kill),
            Just(Step::TryNext),
            Just(Step::ExitsWithin),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn yields_what_a_map_of_pids_predicts(steps in prop::collection::vec(step(), 0..40)) {
            let mut children: Vec<Child> = (0..4)
                .map(|_| Child::spawn_command(Command::new("sleep").arg("1000")))
                .collect();
            let mut dead = HashSet::new();
            let mut expected = HashMap::<u8, u32>::new();
            let mut map = ExitMap::new();
            let runtime = &runtimes()[0];
            for step in steps {
                match step {
                    Step::Insert(key, n) => {
                        map.insert(key, children[n].id()).unwrap();
                        expected.insert(key, children[n].id());
                    }
                    Step::InsertExit(key, n) => {
                        map.insert_exit(key, exit_of(children[n].id()));
                        expected.insert(key, children[n].id());
                    }
                    Step::Remove(key) => {
                        prop_assert_eq!(map.remove(&key), expected.remove(&key).is_some());
                    }
                    Step::Kill(n) => {
                        children[n].kill();
                        dead.insert(children[n].id());
                    }
                    Step::TryNext => {
                        let next = map.try_next_exit();
                        let any = expected.values().any(|pid| dead.contains(pid));
                        prop_assert_eq!(next.is_some(), any);
                        if let Some((key, exit)) = next {
                            let pid = expected.remove(&key);
                            prop_assert_eq!(exit.unwrap().pid(), pid);
                            prop_assert!(dead.contains(&pid.unwrap()));
                        }
                    }
                    Step::ExitsWithin => {
                        let exits = runtime.block_on(map.exits_within(Duration::ZERO));
                        for (key, exit) in exits {
                            prop_assert_eq!(exit.unwrap().pid(), expected.remove(&key));
                        }
                        prop_assert!(!expected.values().any(|pid| dead.contains(pid)));
                    }
                }
                prop_assert_eq!(map.len(), expected.len());
                let keys: HashSet<u8> = map.keys().copied().collect();
                prop_assert_eq!(keys, expected.keys().copied().collect::<HashSet<u8>>());
                for (key, pid) in &expected {
                    prop_assert_eq!(map.pid(key), Some(*pid));
                }
            }
        }
    }
}
