use serde_json::json;

/// How a command ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitOutcome {
    /// It exited with 0, or an attached client detached.
    Success,
    /// It exited with another code.
    ExitCode(i32),
    /// It could not be run, or watched to its end; why.
    Error(String),
}

impl ExitOutcome {
    /// What is sent on the error stream: a `Status`, or for protocols before v4 a text, which is empty for success.
    pub(super) fn on_the_wire(&self, has_status_objects: bool) -> Vec<u8> {
        let message = match self {
            Self::Success => String::new(),
            Self::ExitCode(code) => format!("command terminated with non-zero exit code: exit status {code}"),
            Self::Error(why) => format!("Internal error occurred: error executing command in container: {why}"),
        };
        if !has_status_objects {
            return message.into_bytes();
        }
        let status = match self {
            Self::Success => json!({"metadata": {}, "status": "Success"}),
            Self::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "NonZeroExitCode",
                "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
            }),
            Self::Error(why) => json!({
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": "InternalError",
                "details": {"causes": [{"message": format!("error executing command in container: {why}")}]},
                "code": 500,
            }),
        };
        status.to_string().into_bytes()
    }
}
