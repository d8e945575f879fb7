use std::{fs::File, path::Path};

use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::run;

/// The name of the image that [`busybox`] makes.
pub const BUSYBOX: &str = "pharos.io/busybox:test";

/// Writes a docker archive of the machine's own busybox (Debian: busybox-static), with a shell, tar, a web server and
/// all other applets in `/bin`.
///
/// # Panics
/// If there is no busybox, or the archive cannot be written.
pub(crate) fn busybox(archive: &Path) {
    let program = ["/bin/busybox", "/usr/bin/busybox"].into_iter().find(|path| Path::new(path).exists());
    let program = program.expect("busybox is installed; scripts/deps test does it");
    let layer = layer(program);
    let id = hex::encode(Sha256::digest(&layer));
    let config = json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" },
        "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"], "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{id}")]},
    })
    .to_string();
    let config_name = format!("{}.json", hex::encode(Sha256::digest(&config)));
    let layer_name = format!("{id}/layer.tar");
    let manifest = json!([{"Config": config_name, "RepoTags": [BUSYBOX], "Layers": [layer_name]}]).to_string();
    let mut tar = tar::Builder::new(File::create(archive).expect("the archive can be written"));
    for (name, bytes) in [(&layer_name, layer.as_slice()), (&config_name, config.as_bytes())] {
        file(&mut tar, name, bytes, 0o644);
    }
    file(&mut tar, "manifest.json", manifest.as_bytes(), 0o644);
    tar.finish().expect("the archive can be written");
}

fn layer(program: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (folder, mode) in [("bin/", 0o755), ("etc/", 0o755), ("tmp/", 0o1777), ("root/", 0o700), ("www/", 0o755)] {
        let mut header = header(0, mode);
        header.set_entry_type(tar::EntryType::Directory);
        tar.append_data(&mut header, folder, std::io::empty()).expect("memory");
    }
    file(&mut tar, "bin/busybox", &std::fs::read(program).expect("busybox can be read"), 0o755);
    file(&mut tar, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644);
    file(&mut tar, "etc/group", b"root:x:0:\nnogroup:x:65534:\n", 0o644);
    for applet in run(std::process::Command::new(program).arg("--list"), "").success().lines().filter(|a| *a != "busybox") {
        let mut header = header(0, 0o777);
        header.set_entry_type(tar::EntryType::Symlink);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox").expect("memory");
    }
    tar.into_inner().expect("memory")
}

fn file<W: std::io::Write>(tar: &mut tar::Builder<W>, name: &str, bytes: &[u8], mode: u32) {
    tar.append_data(&mut header(bytes.len(), mode), name, bytes).expect("the archive can be written");
}

fn header(size: usize, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size as u64);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
