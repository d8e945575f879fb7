use std::{
    io::{Read as _, Write as _},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// How long any client may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a client said.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
    /// The exit code; `None` after a signal or the deadline.
    pub code: Option<i32>,
}

impl Output {
    /// Whether it succeeded.
    #[must_use]
    pub fn ok(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output, if it succeeded.
    ///
    /// # Panics
    /// With all that was said, if it failed.
    #[must_use]
    pub fn success(self) -> String {
        assert!(self.ok(), "exit {:?}\nstdout: {}\nstderr: {}", self.code, self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a client to its end, killing it at a deadline.
///
/// # Panics
/// If it cannot be started.
pub fn run(command: &mut Command, input: &str) -> Output {
    let name = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    thread::spawn(move || _ = stdin.write_all(input.as_bytes()));
    let drain = |mut pipe: Box<dyn std::io::Read + Send>| {
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let stdout = drain(Box::new(child.stdout.take().expect("piped")));
    let stderr = drain(Box::new(child.stderr.take().expect("piped")));
    let end = now() + DEADLINE;
    let code = loop {
        match child.try_wait().expect("the child is ours") {
            Some(status) => break status.code(),
            None if now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            None => thread::sleep(Duration::from_millis(5)),
        }
    };
    Output { stdout: stdout.join().expect("no panic"), stderr: stderr.join().expect("no panic"), code }
}

/// Asks again and again until the answer is `Ok`.
///
/// # Panics
/// With the last answer, when `within` is over.
pub fn eventually<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = now() + within;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(last) if now() > end => panic!("{what}: not within {within:?}; last: {last}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "black-box tests wait for other processes, in real time")]
fn now() -> Instant {
    Instant::now()
}
