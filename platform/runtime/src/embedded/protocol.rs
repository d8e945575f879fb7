//! What the server and a shim say to each other over the shim's socket, and the files they share.
//!
//! Each frame is a kind byte, a big-endian `u32` length and that many bytes. A connection starts with one [`Request`] (kind
//! [`REQUEST`]); the shim answers with one [`Answer`]. After `Watch` it sends [`Event`]s; after `Attach` both send stream data.

use std::path::PathBuf;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::types::LogRotation;

pub(crate) const REQUEST: u8 = b'Q';
pub(crate) const ANSWER: u8 = b'A';
pub(crate) const EVENT: u8 = b'E';
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const STDIN_END: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// Longest frame; a longer one ends the connection.
pub(crate) const FRAME_LIMIT: usize = 1 << 20;

/// Files in a container's directory.
pub(crate) const SOCKET: &str = "shim.sock";
pub(crate) const STATUS: &str = "status.json";
pub(crate) const CONFIG: &str = "shim.json";
pub(crate) const LOG: &str = "shim.log";

/// What a shim is started with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ShimConfig {
    pub(crate) id: String,
    pub(crate) log_path: PathBuf,
    pub(crate) log_rotation: LogRotation,
    pub(crate) stdin: bool,
    pub(crate) stdin_once: bool,
    pub(crate) tty: bool,
    pub(crate) cgroup: String,
    /// Whether the container's processes end with its first one.
    pub(crate) own_pid_namespace: bool,
}

/// The state a shim leaves on disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ShimStatus {
    pub(crate) pid: i32,
    pub(crate) shim_pid: i32,
    pub(crate) started_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) exit_code: i32,
    pub(crate) signal: i32,
    pub(crate) oom_killed: bool,
    /// Why it could not be started.
    pub(crate) message: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Request {
    Watch,
    Kill { signal: i32, all: bool },
    ReopenLog,
    Attach { stdin: bool },
}

/// `None` is success.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) error: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Event {
    Oom,
    Exit(ShimStatus),
}

/// Appends a frame.
pub(crate) fn frame(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Takes the first whole frame from a buffer; `Err` when it is too long.
pub(crate) fn take_frame(buffer: &mut Vec<u8>) -> Result<Option<(u8, Vec<u8>)>, ()> {
    let Some(head) = buffer.first_chunk::<5>() else { return Ok(None) };
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
    if length > FRAME_LIMIT {
        return Err(());
    }
    if buffer.len() < 5 + length {
        return Ok(None);
    }
    let kind = head[0];
    let bytes = buffer[5..5 + length].to_vec();
    buffer.drain(..5 + length);
    Ok(Some((kind, bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_any_cut() {
        let mut wire = Vec::new();
        frame(&mut wire, STDOUT, b"hello");
        frame(&mut wire, STDIN_END, b"");
        let (mut buffer, mut got) = (Vec::new(), Vec::new());
        for byte in wire {
            buffer.push(byte);
            while let Some(one) = take_frame(&mut buffer).unwrap() {
                got.push(one);
            }
        }
        assert_eq!(got, [(STDOUT, b"hello".to_vec()), (STDIN_END, Vec::new())]);
        assert!(take_frame(&mut vec![0, 255, 0, 0, 0]).is_err());
    }
}
