//! A Python interpreter with psutil, for `peers.py`.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The measured release of psutil, because releases differ in how they wait.
const PSUTIL: &str = "psutil==7.2.2";

pub(crate) struct Python {
    program: PathBuf,
}

impl Python {
    /// Returns the interpreter of a virtual environment, which the first call creates.
    pub(crate) fn find() -> Option<Python> {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
        let program = directory.join("bin/python");
        let check = "import psutil; assert psutil.__version__ == '7.2.2'";
        if run(Command::new(&program).args(["-c", check])).is_err() {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(&directory);
            let mut install = Command::new(&program);
            install.args(["-m", "pip", "install", "--quiet", PSUTIL]);
            if let Err(error) = run(&mut venv).and_then(|_| run(&mut install)) {
                println!("\nskipped: Python and psutil, {error}");
                return None;
            }
        }
        Some(Python { program })
    }

    pub(crate) fn version(&self) -> String {
        let output = run(Command::new(&self.program).arg("--version"));
        output.map_or_else(|error| error, |version| version.trim().to_owned())
    }

    /// Returns a command that runs the function `name` of `peers.py`.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.py"));
        command.arg(name);
        command
    }
}

/// Runs a command, and returns its standard output or an error message.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let Output {
        status,
        stdout,
        stderr,
    } = command
        .output()
        .map_err(|error| format!("{name}: {error}"))?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    if status.success() {
        Ok(text(stdout))
    } else {
        Err(format!("{name}: {status}: {}", text(stderr).trim()))
    }
}
