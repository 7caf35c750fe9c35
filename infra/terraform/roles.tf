# One role for each service account. What each may do with the buckets is in policies/, which the tests give to a real S3 server.
data "aws_iam_policy_document" "pods" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each           = local.accounts
  name               = "${var.name}-${each.key}"
  assume_role_policy = data.aws_iam_policy_document.pods.json
}

resource "aws_iam_role_policy" "buckets" {
  for_each = toset(["anonymize", "ingest", "recover"])
  name     = "buckets"
  role     = aws_iam_role.this[each.key].id
  policy   = templatefile("${path.module}/policies/${each.key}.json", { for part, bucket in aws_s3_bucket.this : part => bucket.id })
}

# S3 encrypts and decrypts with the key in the name of who asks.
data "aws_iam_policy_document" "key_by_s3" {
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.this.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:ViaService"
      values   = ["s3.${var.region}.amazonaws.com"]
    }
  }
}

resource "aws_iam_role_policy" "key" {
  for_each = aws_iam_role_policy.buckets
  name     = "key"
  role     = each.value.role
  policy   = data.aws_iam_policy_document.key_by_s3.json
}

resource "aws_eks_pod_identity_association" "this" {
  for_each        = local.accounts
  cluster_name    = var.cluster_name
  namespace       = each.value[0]
  service_account = each.value[1]
  role_arn        = aws_iam_role.this[each.key].arn
}
