# The embedded environment: `platformctl dev up` serves its bucket on this machine, and no cloud account is needed.
environment         = "local"
platform            = "kube"

# The S3 server of `platformctl dev up`.
aws_endpoint_url    = "http://127.0.0.1:9191"
secrets_bucket_name = "platform-local-secrets"

# A key file takes the place of KMS (local_key_file, by default .platform/local/wrap.key).
key_wrap            = "local"

# How many node processes `platformctl dev up` starts in each group.
secure_asg_min      = 3
secure_asg_max      = 3
compute_asg_min     = 2
compute_asg_max     = 2
