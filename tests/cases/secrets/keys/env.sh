export API_TOKEN="exportPW-Gh40jg2"; export LEVEL=2
OTHER=plainenvPW-Jk51hf3 # note
