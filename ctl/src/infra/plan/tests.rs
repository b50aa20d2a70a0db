use serde_json::json;

use super::*;

fn plan(changes: Value) -> Plan {
    let document = json!({"resource_changes": changes});
    Plan::read(document.to_string().as_bytes(), "dev").unwrap()
}

fn secure(before: Value, after: Value, actions: Value) -> Value {
    json!([{
        "address": "aws_autoscaling_group.secure", "mode": "managed", "type": "aws_autoscaling_group",
        "change": {"actions": actions, "before": before, "after": after, "after_unknown": {}}
    }])
}

#[test]
fn the_short_form() {
    let plan = plan(json!([
        {"address": "aws_vpc.this", "mode": "managed", "type": "aws_vpc",
         "change": {"actions": ["no-op"], "before": {"a": 1}, "after": {"a": 1}}},
        {"address": "data.aws_ami.x", "mode": "data", "type": "aws_ami",
         "change": {"actions": ["read"], "before": null, "after": {}}},
        {"address": "aws_lb.x", "mode": "managed", "type": "aws_lb",
         "change": {"actions": ["create"], "before": null, "after": {"name": "x"}, "after_unknown": {"id": true}}},
        {"address": "aws_autoscaling_group.compute", "mode": "managed", "type": "aws_autoscaling_group",
         "change": {"actions": ["update"], "before": {"max_size": 5, "arn": "a", "tags": {"a": 1}, "pw": "p"},
                    "after": {"max_size": 7, "tags": {"a": 2}, "pw": "q"},
                    "after_unknown": {"arn": true}, "after_sensitive": {"pw": true}}},
        {"address": "aws_launch_template.x", "mode": "managed", "type": "aws_launch_template",
         "change": {"actions": ["update"], "before": {"latest": 1}, "after": {}, "after_unknown": {"latest": true}}},
        {"address": "aws_subnet.x", "mode": "managed", "type": "aws_subnet",
         "change": {"actions": ["delete", "create"], "before": {"cidr_block": "a"}, "after": {"cidr_block": "b"},
                    "replace_paths": [["cidr_block"], ["ebs", 0, "size"]]}},
        {"address": "aws_eip.x", "mode": "managed", "type": "aws_eip",
         "change": {"actions": ["delete"], "before": {}, "after": null}},
    ]));
    assert_eq!(
        plan.to_string(),
        "  make     aws_lb.x\n  \
           change   aws_autoscaling_group.compute (max_size 5 → 7, pw, tags)\n  \
           change   aws_launch_template.x (latest)\n  \
           replace  aws_subnet.x (forced by cidr_block, ebs.0.size)\n  \
           destroy  aws_eip.x\n\
         1 to make, 2 to change, 1 to replace, 1 to destroy"
    );
    assert!(plan.dangers().is_empty());
}

#[test]
fn what_puts_the_secure_group_at_risk() {
    let size = |min, max| json!({"name": "dev-secure", "min_size": min, "max_size": max});
    let grown = plan(secure(size(3, 4), size(5, 6), json!(["update"])));
    assert!(grown.dangers().is_empty());
    let shrunk = plan(secure(size(3, 4), size(3, 3), json!(["update"])));
    assert_eq!(
        shrunk.dangers(),
        ["the secure group dev-secure becomes smaller (max_size 4 → 3)"]
    );
    let replaced = plan(secure(size(3, 4), size(3, 4), json!(["delete", "create"])));
    assert_eq!(
        replaced.dangers(),
        ["the secure group dev-secure is replaced, with every etcd member"]
    );
    let made = plan(secure(Value::Null, size(3, 4), json!(["create"])));
    assert!(made.dangers().is_empty());
    let subnet = |name: &str, group: Value| {
        plan(json!([
            {"address": "aws_autoscaling_group.secure", "mode": "managed", "type": "aws_autoscaling_group",
             "change": {"actions": ["no-op"], "before": group, "after": {}}},
            {"address": "aws_subnet.x", "mode": "managed", "type": "aws_subnet",
             "action_reason": "replace_because_tainted",
             "change": {"actions": ["delete", "create"], "before": {"tags": {"Name": name}}, "after": {}}},
        ]))
    };
    let there = json!({"name": "dev-secure"});
    assert_eq!(subnet("dev-secure", there.clone()).dangers().len(), 1);
    assert!(subnet("dev-compute", there).dangers().is_empty());
    // What an interrupted first apply left: nobody stands on it yet.
    let first = subnet("dev-secure", Value::Null);
    assert!(first.dangers().is_empty());
    assert!(
        first
            .to_string()
            .contains("(forced by a creation that did not end)")
    );
}

#[test]
fn nothing_to_do_is_said() {
    assert!(plan(json!([])).to_string().starts_with("nothing to do"));
    assert!(Plan::read(b"{", "dev").is_err());
}
