use std::io::Write as _;

use super::{tail::PIECE, *};

struct Fixture {
    dir: tempfile::TempDir,
    follower: Follower,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("default_web-1_1234/app")).unwrap();
        let follower = Self::follower(dir.path(), Positions::new());
        Self { dir, follower }
    }

    fn follower(root: &Path, positions: Positions) -> Follower {
        let pods = Informer::detached();
        pods.insert(
            serde_json::from_value(serde_json::json!({
                "metadata": {"namespace": "default", "name": "web-1", "labels": {"app": "web"}}
            }))
            .unwrap(),
        );
        Follower { root: root.to_owned(), node: "n1".to_owned(), pods, positions, tails: HashMap::new(), lost: 0 }
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("default_web-1_1234/app/0.log")
    }

    fn write(&self, lines: &[&str]) {
        let mut file = fs::File::options().create(true).append(true).open(self.log()).unwrap();
        for line in lines {
            writeln!(file, "1970-01-01T00:00:01Z stdout {line}").unwrap();
        }
    }

    /// What is new, and the positions that are stored with it.
    fn read(&mut self) -> (Vec<String>, Positions) {
        let (mut lines, mut positions) = (Vec::new(), Positions::new());
        let mut paths = BTreeSet::from([PathBuf::new()]);
        while !paths.is_empty() {
            let pass = self.follower.pass(paths);
            lines.extend(pass.batch.entries.iter().map(|entry| entry.line.to_string()));
            for (path, position) in pass.batch.positions {
                match position {
                    Some(position) => drop(positions.insert(path, position)),
                    None => drop(positions.remove(&path)),
                }
            }
            paths = pass.more;
        }
        (lines, positions)
    }

    fn rotate(&self, time: &str) {
        fs::rename(self.log(), self.log().with_file_name(format!("0.log.{time}"))).unwrap();
    }

    fn restart(&mut self, positions: Positions) {
        self.follower = Self::follower(self.dir.path(), positions);
    }
}

#[test]
fn a_path_names_its_container() {
    let root = Path::new("/var/log/pods");
    let place = Place::of(root, Path::new("/var/log/pods/default_web-1_1234/app/0.log")).unwrap();
    let labels = place.stream("n1", Some("web"), "stdout").labels.to_string();
    let expected =
        r#"{app="web", container="app", namespace="default", node="n1", pod="web-1", service_name="web", stream="stdout"}"#;
    assert_eq!(labels, expected);
    for other in ["default_web-1_1234/app/0.log.20260101-000000", "default_web-1/app/0.log", "x.log", "a_b_c/d/e/0.log"] {
        assert_eq!(Place::of(root, &root.join(other)), None, "{other}");
    }
}

#[test]
fn lines_are_read_once_and_joined() {
    let mut fixture = Fixture::new();
    let piece = "x".repeat(PIECE);
    let part = format!("P {piece}");
    fixture.write(&["F one", &part, &part]);
    assert_eq!(fixture.read().0, ["one"]);
    fixture.write(&["F a half", "F three"]);
    assert_eq!(fixture.read().0, [format!("{piece}{piece}a half"), "three".into()]);
    assert_eq!(fixture.read().0, Vec::<String>::new());
}

#[test]
fn what_a_stream_ends_with_is_a_line() {
    let mut fixture = Fixture::new();
    fixture.write(&[&format!("P {}", "x".repeat(PIECE)), "P no newline"]);
    assert_eq!(fixture.read().0, [format!("{}no newline", "x".repeat(PIECE))]);
}

#[test]
fn a_restart_goes_on_where_it_was() {
    let mut fixture = Fixture::new();
    let piece = "x".repeat(PIECE);
    fixture.write(&["F one", &format!("P {piece}")]);
    let (lines, positions) = fixture.read();
    assert_eq!(lines, ["one"]);
    fixture.restart(positions);
    fixture.write(&["F and a half"]);
    assert_eq!(fixture.read().0, [format!("{piece}and a half")]);
}

#[test]
fn rotation_loses_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    assert_eq!(fixture.read().0, ["one"]);
    fixture.write(&["F two"]);
    fixture.rotate("20260101-000000");
    assert_eq!(fixture.read().0, ["two"], "read from the file that was renamed");
    fixture.write(&["F three"]);
    assert_eq!(fixture.read().0, ["three"]);
}

#[test]
fn rotations_while_nobody_looks_lose_nothing() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    let (_, positions) = fixture.read();
    for (time, line) in [("20260101-000000", "F two"), ("20260101-000001", "F three")] {
        fixture.write(&[line]);
        fixture.rotate(time);
    }
    fixture.write(&["F four"]);
    fixture.restart(positions);
    assert_eq!(fixture.read().0, ["two", "three", "four"]);
    assert_eq!(fixture.follower.lost, 0);
}

#[test]
fn a_file_that_is_gone_is_forgotten() {
    let mut fixture = Fixture::new();
    fixture.write(&["F one"]);
    let (_, positions) = fixture.read();
    fs::remove_dir_all(fixture.dir.path().join("default_web-1_1234")).unwrap();
    assert_eq!(fixture.read().0, Vec::<String>::new());
    assert!(fixture.follower.tails.is_empty());
    fixture.restart(positions);
    let pass = fixture.follower.pass(BTreeSet::from([PathBuf::new()]));
    assert_eq!(pass.batch.positions, [(fixture.log(), None)]);
}
