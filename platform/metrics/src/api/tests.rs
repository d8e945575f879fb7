//! Requests and answers, as upstream words them.
