output "buckets" {
  description = "Names, for infra/kubernetes/settings.yaml."
  value       = { for part, bucket in aws_s3_bucket.this : part => bucket.id }
}

output "endpoint_cidrs" {
  description = "For infra/kubernetes/network.yaml."
  value       = { for service, endpoint in local.endpoints : service => endpoint.cidr }
}

output "kek" {
  description = "For infra/kubernetes/settings.yaml and `keyanon keystore init --kek`."
  value       = "awskms:${aws_kms_alias.kek.name}"
}

output "key_arn" {
  description = "For infra/kubernetes/encrypted-storage.yaml."
  value       = aws_kms_key.this.arn
}

output "database_address" {
  description = "Host of the keystore's database; null where there is none."
  value       = one(aws_db_instance.keystore[*].address)
}

output "database_secret_arn" {
  description = "Where Amazon keeps the administrator's password; null where there is no database."
  value       = one([for secret in flatten(aws_db_instance.keystore[*].master_user_secret) : secret.secret_arn])
}
