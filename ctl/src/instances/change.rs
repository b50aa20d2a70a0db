//! What is asked of AWS about machines: another number of them, another one in a machine's place, and what one said at boot.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::Instance;
use crate::aws::{Aws, AwsError, AwsErrorKind, call};

/// Has the auto-scaling group want `count` machines.
///
/// # Errors
/// [`AwsError`].
pub async fn set_desired(aws: &Aws, scaling_group: &str, count: u32) -> Result<(), AwsError> {
    let request = aws
        .autoscaling()
        .set_desired_capacity()
        .auto_scaling_group_name(scaling_group)
        .desired_capacity(i32::try_from(count).unwrap_or(i32::MAX))
        .honor_cooldown(false)
        .send();
    call("autoscaling:SetDesiredCapacity", scaling_group, request).await?;
    Ok(())
}

/// Ends the machine, and has its auto-scaling group launch another in its place.
///
/// # Errors
/// [`AwsError`].
pub async fn terminate_for_replacement(aws: &Aws, instance: &Instance) -> Result<(), AwsError> {
    let request = aws
        .autoscaling()
        .terminate_instance_in_auto_scaling_group()
        .instance_id(&instance.id)
        .should_decrement_desired_capacity(false)
        .send();
    call(
        "autoscaling:TerminateInstanceInAutoScalingGroup",
        &instance.id,
        request,
    )
    .await?;
    Ok(())
}

/// What the machine wrote to its serial console, as EC2 keeps it, without what would move a terminal's cursor.
///
/// # Errors
/// [`AwsError`].
pub async fn console(aws: &Aws, instance: &Instance) -> Result<String, AwsError> {
    let ask = |latest: bool| {
        let request = aws
            .ec2()
            .get_console_output()
            .instance_id(&instance.id)
            .set_latest(latest.then_some(true))
            .send();
        call("ec2:GetConsoleOutput", &instance.id, request)
    };
    // Only newer instance types have the console of this moment.
    let answer = match ask(true).await {
        Err(e) if e.kind == AwsErrorKind::Other("UnsupportedOperation".to_owned()) => {
            ask(false).await?
        }
        answer => answer?,
    };
    Ok(decoded(answer.output().unwrap_or_default()))
}

/// EC2 gives the bytes as base64, with line ends in it.
fn decoded(text: &str) -> String {
    let dense: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD
        .decode(&dense)
        .unwrap_or_else(|_| text.as_bytes().to_vec());
    let text = String::from_utf8_lossy(&bytes).replace("\r\n", "\n");
    let plain = |c: char| !c.is_control() || c == '\n' || c == '\t';
    text.chars()
        .map(|c| if plain(c) { c } else { '\u{fffd}' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_is_text_and_moves_no_cursor() {
        let raw = STANDARD.encode(b"[  0.0] Linux\r\n\x1b[2Jboot\xff\n");
        assert_eq!(decoded(&raw), "[  0.0] Linux\n\u{fffd}[2Jboot\u{fffd}\n");
        let (a, b) = raw.split_at(10);
        assert_eq!(decoded(&format!("{a}\n{b}\n")), decoded(&raw));
        assert_eq!(decoded(""), "");
        assert_eq!(decoded("plain text!"), "plain text!");
    }
}
