//! One file, sent several times.

use std::path::PathBuf;

use async_trait::async_trait;

use super::{Capture, CaptureError, Captured, blocking};

/// Gives the same file as a new image each time. It is looked at anew each time too, so a file
/// that is rewritten between two images is sent as it is then.
#[derive(Debug)]
pub(super) struct FileSource {
    path: PathBuf,
    name: String,
    remaining: u64,
}

impl FileSource {
    pub(super) async fn open(path: PathBuf, repeat: u64) -> Result<Self, CaptureError> {
        let name = match path.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => {
                return Err(CaptureError::path(
                    path,
                    "not a file; name an image file",
                    None,
                ));
            }
        };
        size_of(path.clone()).await?;
        Ok(Self {
            path,
            name,
            remaining: repeat,
        })
    }
}

#[async_trait]
impl Capture for FileSource {
    async fn next(&mut self) -> Result<Option<Captured>, CaptureError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let size = size_of(self.path.clone()).await?;
        self.remaining -= 1;
        Ok(Some(Captured::from_file(
            self.path.clone(),
            size,
            self.name.clone(),
        )))
    }

    fn is_finite(&self) -> bool {
        true
    }
}

/// Size of the file. An empty one is a file too: the receiver judges images.
async fn size_of(path: PathBuf) -> Result<u64, CaptureError> {
    blocking(move || {
        let found = std::fs::metadata(&path).and_then(|metadata| {
            // Opening tells whether it may be read. Only a regular file is opened: opening a
            // pipe would wait for its writer.
            if metadata.is_file() {
                std::fs::File::open(&path)?;
            }
            Ok(metadata)
        });
        match found {
            Ok(metadata) if metadata.is_file() => Ok(metadata.len()),
            Ok(metadata) if metadata.is_dir() => Err(CaptureError::path(
                path,
                "is a folder; use --folder to send what is in it",
                None,
            )),
            Ok(_) => Err(CaptureError::path(
                path,
                "not a regular file; name an image file",
                None,
            )),
            Err(error) => {
                let problem = match error.kind() {
                    std::io::ErrorKind::NotFound => "no such file; check the path",
                    std::io::ErrorKind::PermissionDenied => {
                        "may not be read; give this user the right to read it"
                    }
                    _ => "cannot be read",
                };
                Err(CaptureError::path(path, problem, Some(error)))
            }
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    async fn problem_of(path: PathBuf) -> String {
        FileSource::open(path, 1).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn every_repetition_is_an_image_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a b.JPG");
        std::fs::write(&path, b"12345").unwrap();
        let mut source = FileSource::open(path.clone(), 2).await.unwrap();
        let one = source.next().await.unwrap().unwrap();
        std::fs::write(&path, b"123").unwrap();
        let two = source.next().await.unwrap().unwrap();
        assert!(source.next().await.unwrap().is_none());
        assert_ne!(one.id, two.id);
        assert_eq!(one.name.as_deref(), Some("a b.JPG"));
        assert_eq!(one.content_type.as_deref(), Some("image/jpeg"));
        assert_eq!(one.source_file, Some(path));
        assert!(matches!(one.payload, Payload::File { size: 5, .. }));
        assert_eq!(two.payload.size(), 3, "its size is that of the moment");
    }

    #[tokio::test]
    async fn an_empty_file_is_still_captured() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("empty");
        std::fs::write(&path, b"").unwrap();
        let mut source = FileSource::open(path, 1).await.unwrap();
        let image = source.next().await.unwrap().unwrap();
        assert_eq!((image.payload.size(), image.content_type), (0, None));
    }

    #[tokio::test]
    async fn what_is_no_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            problem_of(dir.path().join("none.jpg"))
                .await
                .contains("no such file")
        );
        assert!(
            problem_of(dir.path().to_owned())
                .await
                .contains("use --folder")
        );
        assert!(problem_of(PathBuf::from("/")).await.contains("not a file"));
        assert!(
            problem_of(PathBuf::from("/dev/null"))
                .await
                .contains("not a regular file")
        );
    }

    #[tokio::test]
    async fn a_file_that_goes_away_ends_the_source() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.jpg");
        std::fs::write(&path, b"1").unwrap();
        let mut source = FileSource::open(path.clone(), 2).await.unwrap();
        std::fs::remove_file(path).unwrap();
        assert!(
            source
                .next()
                .await
                .unwrap_err()
                .to_string()
                .contains("no such file")
        );
    }
}
