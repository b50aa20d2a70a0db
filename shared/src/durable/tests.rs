use super::*;
use std::os::unix::fs::MetadataExt as _;

#[test]
fn replaces_with_mode_and_leaves_no_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.yaml");
    write_file(&path, b"one", Attributes::mode(0o644)).unwrap();
    let inode = fs::metadata(&path).unwrap().ino();
    write_file(&path, b"two", Attributes::mode(0o600)).unwrap();
    let meta = fs::metadata(&path).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"two");
    assert_eq!(meta.mode() & 0o7777, 0o600);
    assert_ne!(meta.ino(), inode, "a rename, never a truncation in place");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn what_is_there_is_not_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    assert!(create_file(&path, b"one", Attributes::mode(0o600)).unwrap());
    assert!(!create_file(&path, b"two", Attributes::mode(0o600)).unwrap());
    assert_eq!(fs::read(&path).unwrap(), b"one");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_failed_write_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    let error = write_file(&path, b"x", Attributes::mode(0o600)).unwrap_err();
    assert_eq!(error.step, "rename into place");
    assert!(path.is_dir());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn an_error_names_the_file_and_not_its_temporary() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("absent/a.yaml");
    let error = write_file(&path, b"x", Attributes::mode(0o600)).unwrap_err();
    assert_eq!((error.step, error.path), ("create", path));
}

#[test]
fn sweeps_only_its_own() {
    let dir = tempfile::tempdir().unwrap();
    #[allow(clippy::disallowed_methods)]
    for name in [".platform-1-2-x", ".other", "real.yaml"] {
        fs::write(dir.path().join(name), b"x").unwrap();
    }
    fs::create_dir(dir.path().join(".platform-dir")).unwrap();
    assert_eq!(sweep_temporaries(dir.path()).unwrap(), 2);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    assert_eq!(sweep_temporaries(&dir.path().join("absent")).unwrap(), 0);
}
