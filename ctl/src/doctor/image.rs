//! The machine image: there, unambiguous, available, and for the machines' processor.

use aws_sdk_ec2::types::{Filter, Image};
use jiff::Timestamp;

use super::Line;
use crate::aws::{Aws, AwsError, AwsErrorKind, call};
use crate::env::Environment;

/// The processor that the platform's programs are built for, by EC2's name.
pub(super) const ARCHITECTURE: &str = "x86_64";

/// Whose images a name is looked for among, as the infrastructure does: anybody may give an image any name.
const OWNERS: [&str; 2] = ["self", "075585003325"];

#[derive(Debug, Clone)]
struct Facts {
    id: String,
    name: String,
    owner: String,
    state: String,
    architecture: String,
    deprecated: Option<Timestamp>,
}

pub(super) async fn check(aws: &Aws, environment: &Environment, now: Timestamp) -> Vec<Line> {
    let Some(image) = &environment.image else {
        return Vec::new();
    };
    let image = image.as_str();
    let ec2 = aws.ec2();
    let request = match image.starts_with("ami-") {
        true => ec2.describe_images().image_ids(image),
        false => ec2
            .describe_images()
            .set_owners(Some(OWNERS.map(str::to_owned).to_vec()))
            .filters(Filter::builder().name("name").values(image).build()),
    };
    let answer = call(
        "ec2:DescribeImages",
        image,
        request.include_deprecated(true).send(),
    )
    .await;
    let found = answer.map(|a| a.images().iter().map(Facts::of).collect::<Vec<_>>());
    vec![judge(image, aws.region(), &found, now)]
}

// === impl Facts ===

impl Facts {
    fn of(image: &Image) -> Self {
        Self {
            id: image.image_id().unwrap_or_default().to_owned(),
            name: image.name().unwrap_or_default().to_owned(),
            owner: image.owner_id().unwrap_or_default().to_owned(),
            state: image
                .state()
                .map_or_else(String::new, |s| s.as_str().to_owned()),
            architecture: image
                .architecture()
                .map_or_else(String::new, |a| a.as_str().to_owned()),
            deprecated: image.deprecation_time().and_then(|t| t.parse().ok()),
        }
    }
}

fn judge(wanted: &str, region: &str, found: &Result<Vec<Facts>, AwsError>, now: Timestamp) -> Line {
    let missing = || {
        Line::fail(
            "image",
            format!(
                "there is no image {wanted} in {region}, or it is not shared with this account"
            ),
            "take the id of a Flatcar image of this region (https://www.flatcar.org/releases) for coreos_image",
        )
    };
    let found = match found {
        Ok(found) => found,
        Err(error) if error.kind == AwsErrorKind::NotFound => return missing(),
        Err(error) => return Line::unseen("image", error),
    };
    let image = match found.as_slice() {
        [] => return missing(),
        [image] => image,
        several => {
            let ids: Vec<String> = several
                .iter()
                .map(|i| format!("{} of {}", i.id, i.owner))
                .collect();
            return Line::fail(
                "image",
                format!("several images have the name {wanted}: {}", ids.join(", ")),
                "put the id of the right one into coreos_image",
            );
        }
    };
    let what = format!("{} ({}, of account {})", image.id, image.name, image.owner);
    if image.architecture != ARCHITECTURE {
        return Line::fail(
            "image",
            format!("{what} is for {}, not {ARCHITECTURE}", image.architecture),
            format!("take an image for {ARCHITECTURE}"),
        );
    }
    if image.state != "available" {
        return Line::fail(
            "image",
            format!("{what} is {}", image.state),
            "wait until it is available, or take another",
        );
    }
    match image.deprecated {
        Some(at) if at < now => Line::warn(
            "image",
            format!("{what} is deprecated since {at:.0}"),
            "take a newer one before it is withdrawn: new machines could not start then",
        ),
        _ => Line::ok("image", format!("{what} is available")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Fail, Ok as Well, Warn};
    use super::*;

    fn facts() -> Facts {
        Facts {
            id: "ami-1".to_owned(),
            name: "Flatcar".to_owned(),
            owner: "075585003325".to_owned(),
            state: "available".to_owned(),
            architecture: "x86_64".to_owned(),
            deprecated: None,
        }
    }

    #[test]
    fn image() {
        let now: Timestamp = "2026-06-01T00:00:00Z".parse().unwrap();
        let with = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            Ok(vec![facts])
        };
        let error = |kind| Err(AwsError::made_up("ec2:DescribeImages", kind));
        for (found, verdict, says) in [
            (with(|_| ()), Well, "is available"),
            (Ok(vec![]), Fail, "no image Flatcar in eu-west-1"),
            (error(AwsErrorKind::NotFound), Fail, "no image"),
            (error(AwsErrorKind::Denied), Fail, "access denied"),
            (Ok(vec![facts(), facts()]), Fail, "several images"),
            (with(|f| f.architecture = "arm64".into()), Fail, "for arm64"),
            (with(|f| f.state = "pending".into()), Fail, "is pending"),
            (
                with(|f| f.deprecated = "2026-05-01T00:00:00Z".parse().ok()),
                Warn,
                "deprecated since",
            ),
            (
                with(|f| f.deprecated = "2026-07-01T00:00:00Z".parse().ok()),
                Well,
                "is available",
            ),
        ] {
            let line = judge("Flatcar", "eu-west-1", &found, now);
            assert_eq!(line.verdict, verdict, "{line:?}");
            assert!(line.says.contains(says), "{line:?}");
            assert_eq!(line.fix.is_none(), verdict == Well, "{line:?}");
        }
    }
}
