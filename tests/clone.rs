//! Promise: a clone waits for the same process as its original.

mod support;

use support::{Child, deadline, runtimes, still_pending};
use tokio_process_exit::{ExitSet, ProcessExit, exit_of};

#[test]
fn both_resolve_in_any_order() {
    for runtime in runtimes() {
        for drop_original in [false, true] {
            let mut child = Child::spawn(7);
            let mut process = exit_of(child.id());
            runtime.block_on(async {
                still_pending(&mut process).await;
                let mut clone = process.try_clone().unwrap();
                still_pending(&mut clone).await;
                still_pending(&mut process).await;
                let original = (!drop_original).then_some(process);
                child.end();
                let exit = deadline(&mut clone).await.unwrap();
                assert_eq!(exit.status().unwrap().code(), Some(7));
                if let Some(original) = original {
                    assert_eq!(deadline(original).await.unwrap(), exit);
                }
            });
        }
    }
}

#[tokio::test]
async fn drop_of_a_clone_keeps_the_original_registered() {
    let mut child = Child::spawn(7);
    let mut process = exit_of(child.id());
    let mut clone = process.try_clone().unwrap();
    still_pending(&mut process).await;
    still_pending(&mut clone).await;
    drop(clone);
    let waiting = tokio::spawn(process);
    tokio::task::yield_now().await;
    child.end();
    let exit = deadline(waiting).await.unwrap().unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(7));
}

#[tokio::test]
async fn clone_of_a_resolved_wait_has_its_exit() {
    let child = Child::zombie(7);
    let mut process = exit_of(child.id());
    let exit = deadline(&mut process).await.unwrap();
    drop(child);
    let mut clone = process.try_clone().unwrap();
    assert!(process.is_terminated() && !clone.is_terminated());
    assert_eq!(clone.try_wait().unwrap(), Some(exit));
    assert_eq!(deadline(&mut clone).await.unwrap(), exit);
    assert!(clone.is_terminated());
}

#[tokio::test]
async fn clone_of_an_exited_process_resolves() {
    let mut child = Child::spawn(7);
    let process = exit_of(child.id());
    child.end();
    child.until_exited();
    let clone = process.try_clone().unwrap();
    let exit = deadline(clone).await.unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(7));
    drop(child);
    deadline(process.try_clone().unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_new_condition_is_not_the_originals() {
    let child = Child::zombie(7);
    let process = exit_of(child.id());
    let mut until_reaped = process.try_clone().unwrap().until_reaped();
    let mut same_condition = until_reaped.try_clone().unwrap();
    if cfg!(unix) {
        still_pending(&mut until_reaped).await;
        still_pending(&mut same_condition).await;
    }
    let exit = deadline(process).await.unwrap();
    assert_eq!(exit.status().unwrap().code(), Some(7));
    drop(child);
    deadline(until_reaped).await.unwrap();
    deadline(same_condition).await.unwrap();
}

#[tokio::test]
async fn a_set_and_its_clone_both_report_the_exit() {
    let mut child = Child::spawn(7);
    let process = exit_of(child.id());
    let clone = process.try_clone().unwrap();
    let mut set = ExitSet::new();
    set.insert_exit(process);
    still_pending(set.next_exit()).await;
    child.end();
    let exit = deadline(set.next_exit()).await.unwrap().unwrap();
    assert_eq!(deadline(clone).await.unwrap(), exit);
    assert!(deadline(set.next_exit()).await.is_none());
}

#[test]
fn clone_returns_the_error_of_opening() {
    let error = exit_of(0).try_clone().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn clone_has_the_properties_of_its_original() {
    let child = Child::spawn(0);
    let process = exit_of(child.id());
    let clone = process.try_clone().unwrap();
    assert_eq!(clone.pid(), process.pid());
    assert_eq!(clone.mechanism(), process.mechanism());
    let reason = |process: &ProcessExit| process.fallback_reason().map(ToString::to_string);
    assert_eq!(reason(&clone), reason(&process));
}
