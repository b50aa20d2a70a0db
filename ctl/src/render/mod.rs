//! From templates to the files of a release.
