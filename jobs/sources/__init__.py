"""Where a job's pictures come from: folders of pictures, Parquet, and what their user says of the faces in them."""
