use std::{
    io::{Read, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

/// How long a session may keep silent about what is expected of it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A client that goes on: it is written to and read from while it runs. Killed on drop.
pub struct Session {
    child: Child,
    input: Option<ChildStdin>,
    said: Arc<(Mutex<Said>, Condvar)>,
    /// How much of what was said has been expected already.
    read: usize,
}

#[derive(Default)]
struct Said {
    text: String,
    open: usize,
}

impl Session {
    /// Starts a client.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn start(command: &mut Command) -> Self {
        let name = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let said = Arc::new((Mutex::new(Said { text: String::new(), open: 2 }), Condvar::new()));
        listen(child.stdout.take().expect("piped"), said.clone());
        listen(child.stderr.take().expect("piped"), said.clone());
        Self { input: child.stdin.take(), child, said, read: 0 }
    }

    /// Starts a client on a terminal of its own, of so many rows and columns.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn on_terminal(command: &Command, rows: u16, columns: u16) -> Self {
        // The program and its arguments become those of a shell, which `script` gives a terminal.
        let words: Vec<String> = std::iter::once(command.get_program())
            .chain(command.get_args())
            .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', r"'\''")))
            .collect();
        let line = format!("stty rows {rows} cols {columns}; exec {}", words.join(" "));
        let mut script = Command::new("script");
        script.args(["-q", "-e", "-c", &line, "/dev/null"]).env("TERM", "xterm");
        for (key, value) in command.get_envs() {
            match value {
                Some(value) => script.env(key, value),
                None => script.env_remove(key),
            };
        }
        Self::start(&mut script)
    }

    /// Writes to it.
    ///
    /// # Panics
    /// If it does not read any more.
    pub fn send(&mut self, text: &str) {
        self.input.as_mut().expect("the input is open").write_all(text.as_bytes()).expect("the client reads");
    }

    /// Ends its input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits until it says something, and returns all it said since the last time, up to the end of that.
    ///
    /// # Panics
    /// If it ends, or keeps silent, before.
    pub fn expect(&mut self, text: &str) -> String {
        let (said, changed) = &*self.said;
        let mut guard = said.lock().expect("no panic");
        loop {
            if let Some(at) = guard.text[self.read..].find(text) {
                let new = guard.text[self.read..self.read + at + text.len()].to_owned();
                self.read += at + text.len();
                return new;
            }
            assert!(guard.open > 0, "it ended without saying {text:?}; it said: {}", guard.text);
            let (next, waited) = changed.wait_timeout(guard, PATIENCE).expect("no panic");
            guard = next;
            assert!(!waited.timed_out(), "it does not say {text:?}; it said: {}", guard.text);
        }
    }

    /// Waits until it ended, and returns its exit code and the rest that it said.
    ///
    /// # Panics
    /// If it does not end.
    pub fn end(mut self) -> (Option<i32>, String) {
        self.input = None;
        let (said, changed) = &*self.said;
        let guard = said.lock().expect("no panic");
        let (guard, waited) = changed.wait_timeout_while(guard, PATIENCE, |said| said.open > 0).expect("no panic");
        assert!(!waited.timed_out(), "it does not end; it said: {}", guard.text);
        let rest = guard.text[self.read..].to_owned();
        drop(guard);
        (self.child.wait().expect("the child is ours").code(), rest)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn listen(mut pipe: impl Read + Send + 'static, said: Arc<(Mutex<Said>, Condvar)>) {
    thread::spawn(move || {
        let mut buffer = [0; 16 * 1024];
        loop {
            let count = pipe.read(&mut buffer).unwrap_or(0);
            let mut guard = said.0.lock().expect("no panic");
            match count {
                0 => guard.open -= 1,
                _ => guard.text.push_str(&String::from_utf8_lossy(&buffer[..count])),
            }
            said.1.notify_all();
            if count == 0 {
                return;
            }
        }
    });
}
