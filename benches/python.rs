//! Python, with the psutil that this crate is measured against.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What each release does differs.
const PSUTIL: &str = "psutil==7.2.2";

pub(crate) struct Python {
    program: PathBuf,
}

impl Python {
    /// In an environment of its own, which is made when it is first needed.
    pub(crate) fn find() -> Option<Python> {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("python");
        let program = place.join("bin/python");
        let check = "import psutil; assert psutil.__version__ == '7.2.2'";
        if run(Command::new(&program).args(["-c", check])).is_err() {
            let mut venv = Command::new("python3");
            venv.args(["-m", "venv"]).arg(&place);
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

    /// A command of `peers.py`.
    pub(crate) fn command(&self, name: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("peers.py"));
        command.arg(name);
        command
    }
}

/// Its output, or what went wrong.
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
