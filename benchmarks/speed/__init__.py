"""Speed: how long explanations take, beside a plain input gradient and other libraries."""
