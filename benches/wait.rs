//! The cost of one wait: open, poll once, drop.

use std::future::Future;
use std::hint::black_box;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::{CommandExt, parent_id};
use std::path::Path;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::task::{Context, Waker};
use std::time::Instant;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio_process_exit::{ProcessExit, exit_of};

use crate::os::{self, Epoll};
use crate::progress::Progress;
use crate::python::run;
use crate::report::{Spread, Table, median, whole};
use crate::run::{Plan, Role, self_command};

/// The required number of system calls of a wait, and the limit of its instructions. Other load on
/// the machine changes neither count, so CI can check both.
const SYSTEM_CALLS: f64 = 5.0;
const INSTRUCTIONS: f64 = 2500.0;

pub(crate) fn measure(plan: &Plan) -> bool {
    const WAITS: usize = 500;
    let rounds = plan.rounds_or(20, 400);
    let epoll = Epoll::new();
    let runtime = os::current_thread();
    let _guard = runtime.enter();
    let child = Sleeper::spawn();
    let pid = child.id();
    let mut contenders = [
        (
            "pidfd_open, epoll_ctl twice, close",
            Box::new(|| by_hand(&epoll, pid)) as Box<dyn FnMut()>,
        ),
        ("AsyncFd by hand", Box::new(|| async_fd(pid))),
        ("exit_of", Box::new(|| poll_once(exit_of(pid)))),
        (
            "exit_of, a process that is no child",
            Box::new(|| poll_once(exit_of(parent_id()))),
        ),
    ];
    let mut figures = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    // strace and valgrind take about as long as the rounds.
    let mut progress = Progress::new(2.0 * rounds as f64);
    for _ in 0..rounds {
        fastrand::shuffle(&mut order);
        for &which in &order {
            let start = Instant::now();
            for _ in 0..WAITS {
                contenders[which].1();
            }
            figures[which].push(start.elapsed().as_nanos() as f64 / WAITS as f64);
        }
        progress.advance(1.0);
    }
    println!("\n### One wait: open, poll once, drop; {rounds} rounds of {WAITS}\n");
    let mut table = Table::new(["", "median, ns", "ratio (p10 to p90)"]);
    for ((name, _), rounds) in contenders.iter().zip(&figures) {
        let ratio = Spread::of_ratios(rounds, &figures[0]);
        table.row([(*name).to_owned(), whole(median(rounds)), ratio.to_string()]);
    }
    table.print();
    println!();
    // `&`, not `&&`: both counts are always printed.
    system_calls() & instructions()
}

/// A child that does not exit before it is dropped.
struct Sleeper(Child);

impl Sleeper {
    fn spawn() -> Sleeper {
        let mut command = Command::new("cat");
        Sleeper(command.stdin(Stdio::piped()).spawn().expect("cat starts"))
    }

    fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        // `wait` closes the standard input of `cat`, which makes `cat` exit.
        self.0.wait().expect("the child can be reaped");
    }
}

/// Makes the system calls that every design needs.
fn by_hand(epoll: &Epoll, pid: u32) {
    let pidfd = os::pidfd_open(pid);
    epoll.add(pidfd.as_raw_fd(), libc::EPOLLIN | libc::EPOLLET, 0);
    epoll.delete(pidfd.as_raw_fd());
}

fn async_fd(pid: u32) {
    let pidfd = os::pidfd_open(pid);
    // SAFETY: the descriptor is owned by the `AsyncFd` and never replaced.
    let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    let pidfd = pidfd.expect("the pidfd is registered");
    let mut cx = Context::from_waker(Waker::noop());
    assert!(pidfd.poll_read_ready(&mut cx).is_pending());
}

fn poll_once(process: ProcessExit) {
    let mut process = pin!(process);
    let mut cx = Context::from_waker(Waker::noop());
    assert!(process.as_mut().poll(&mut cx).is_pending());
}

/// Makes `count` waits, whose system calls strace counts.
pub(crate) fn waits(count: usize) {
    let runtime = os::current_thread();
    let _guard = runtime.enter();
    let child = Sleeper::spawn();
    for _ in 0..count {
        poll_once(exit_of(black_box(child.id())));
    }
}

/// Makes `count` waits, whose instructions valgrind counts.
///
/// Each wait adopts a duplicate of a child's pidfd on standard input, because valgrind before 3.21 does
/// not support `pidfd_open`.
pub(crate) fn adopted_waits(count: usize) {
    let runtime = os::current_thread();
    let _guard = runtime.enter();
    let pidfd = std::io::stdin();
    for _ in 0..count {
        let pidfd = pidfd.as_fd().try_clone_to_owned().expect("a descriptor");
        poll_once(ProcessExit::try_from(pidfd).expect("a pidfd"));
    }
}

/// Numbers of waits in the two runs that are compared.
const FEW: usize = 100;
const MANY: usize = 1100;

/// Runs `waits` waits under `wrapper`, and returns the output of `wrapper`.
fn count(role: Role, waits: usize, wrapper: &mut Command) -> Result<String, String> {
    let program = self_command(role);
    wrapper
        .arg(program.get_program())
        .args(program.get_args())
        .args(["--count", &waits.to_string()]);
    run(wrapper)
}

/// Returns the count for one wait, without what the program does before and after the waits.
fn per_wait(few: f64, many: f64) -> f64 {
    (many - few) / (MANY - FEW) as f64
}

/// Prints the number of system calls of a wait, and returns whether the number is right.
fn system_calls() -> bool {
    let trace = |waits| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("strace");
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-o"]).arg(&file);
        count(Role::Waits, waits, &mut strace)?;
        std::fs::read_to_string(&file).map_err(|error| error.to_string())
    };
    let (few, many) = match (trace(FEW), trace(MANY)) {
        (Ok(few), Ok(many)) => (few, many),
        (Err(error), _) | (_, Err(error)) => {
            println!("skipped: counting system calls, {error}");
            return true;
        }
    };
    let of = |name: &str| {
        let lines = |trace: &str| {
            // "1234 close(5) = 0"
            let calls = trace.lines().filter_map(|line| line.split_once(' '));
            // "1234 <... close resumed>" is the rest of a call that another process has interrupted.
            let calls = calls.map(|(_, call)| call.trim_start());
            let calls = calls.filter(|call| !call.starts_with("<..."));
            calls.filter(|call| call.starts_with(name)).count() as f64
        };
        per_wait(lines(&few), lines(&many))
    };
    let all = of("");
    print!("System calls of a wait, counted by strace: {all:.2}");
    for name in ["pidfd_open", "epoll_ctl", "waitid", "close"] {
        print!(", {name} {:.2}", of(&format!("{name}(")));
    }
    println!(". The limit is {SYSTEM_CALLS}.");
    // Tolerate a call that the runtime makes occasionally.
    (all - SYSTEM_CALLS).abs() < 0.1
}

/// Prints the number of instructions of a wait, and returns whether the number is within the limit.
fn instructions() -> bool {
    let collect = |waits| {
        let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind");
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "--log-file=/dev/stdout"])
            .arg(format!("--callgrind-out-file={}", file.display()));
        // The child stays a child of this process after `exec`.
        // SAFETY: the function only makes system calls.
        unsafe { valgrind.pre_exec(os::wait_for_child_on_stdin) };
        let log = count(Role::AdoptedWaits, waits, &mut valgrind)?;
        // "==1234== Collected : 5678"
        let collected = log.split("Collected : ").nth(1);
        collected
            .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
            .ok_or_else(|| format!("valgrind printed: {log}"))
    };
    match (collect(FEW), collect(MANY)) {
        (Ok(few), Ok(many)) => {
            let each: f64 = per_wait(few, many);
            println!(
                "\nInstructions of a wait in user space, from the adoption of a pidfd on, counted by \
                 valgrind: {each:.0}. The limit is {INSTRUCTIONS}."
            );
            each > 0.0 && each <= INSTRUCTIONS
        }
        (Err(error), _) | (_, Err(error)) => {
            println!("skipped: counting instructions, {error}");
            true
        }
    }
}
