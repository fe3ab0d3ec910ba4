: >"@ran@/bash-env"
